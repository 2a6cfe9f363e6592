import errno
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.fileio import LocalBackend, register_backend
from mmengine.logging import HistoryBuffer, MMLogger

from mmdet_sag.engine.checkpoint_files import (
    LOADS_SAFELY,
    check_checkpoint_fits,
    enter_folder,
    last_instead_of_worthless_best,
    load_checkpoint_file,
    newest_checkpoint,
    note_earlier_run,
)
from mmdet_sag.errors import InputError

SAFE = pytest.mark.skipif(not LOADS_SAFELY, reason='this PyTorch does not load safely by default')


def write(
    path: Path, iteration: int = 0, epoch: int = 0, saved_into: str = '/runs/mine', run: str | None = None, **content
) -> str:
    content = {
        'meta': dict(epoch=epoch, iter=iteration),
        'state_dict': {'weight': torch.zeros(2)},
        'optimizer': {},
        'message_hub': dict(runtime_info=dict(last_ckpt=f'{saved_into}/{path.name}', run=run)),
        **content,
    }
    path.parent.mkdir(exist_ok=True, parents=True)
    torch.save({key: value for key, value in content.items() if value is not None}, path)
    return str(path)


def test_the_newest_of_the_runs_own_names_is_found(tmp_path):
    write(tmp_path / 'epoch_9.pth', 90, 9)
    newest = write(tmp_path / 'iter_95.pth', 95, 9)
    write(tmp_path / 'iter_12.pth', 12, 1)
    write(tmp_path / 'pretrained.pth', 9000, 900)
    assert newest_checkpoint(str(tmp_path)) == newest


def test_a_file_without_meta_is_passed_over(tmp_path):
    newest = write(tmp_path / 'iter_2.pth', 2)
    write(tmp_path / 'iter_4.pth', meta=None)
    write(tmp_path / 'weights.pth', meta=None)
    assert newest_checkpoint(str(tmp_path)) == newest


@pytest.mark.parametrize(
    'scores, taken',
    [
        (dict(best_score=0.0), 'iter_8.pth'),
        (dict(best_score=0.01), 'best_coco_segm_mAP_iter_4.pth'),
        ({'best_score_coco/segm_mAP': 0.0, 'best_score_coco/bbox_mAP': 0.2}, 'iter_8.pth'),
        ({'best_score_coco/segm_mAP': 0.1, 'best_score_coco/bbox_mAP': 0.0}, 'best_coco_segm_mAP_iter_4.pth'),
        ({}, 'best_coco_segm_mAP_iter_4.pth'),
    ],
    ids=str,
)
def test_a_best_checkpoint_without_any_ap_is_replaced_by_the_last(tmp_path, scores, taken):
    write(tmp_path / 'iter_8.pth', 8)
    hub = dict(runtime_info=scores)
    best = write(tmp_path / 'best_coco_segm_mAP_iter_4.pth', 4, optimizer=None, message_hub=hub)
    assert last_instead_of_worthless_best(best)[0] == str(tmp_path / taken)
    (tmp_path / 'iter_8.pth').unlink()
    assert last_instead_of_worthless_best(best) == (best, '')


def test_a_file_of_another_run_with_more_iterations_is_passed_over(tmp_path):
    (tmp_path / 'last_checkpoint').write_text(write(tmp_path / 'iter_2.pth', 2))
    write(tmp_path / 'iter_90000.pth', 90000, saved_into='/runs/theirs')
    assert newest_checkpoint(str(tmp_path)) == str(tmp_path / 'iter_2.pth')
    # One that was renamed when the process was killed, before last_checkpoint was written.
    newest = write(tmp_path / 'iter_4.pth', 4)
    assert newest_checkpoint(str(tmp_path)) == newest


def test_the_names_and_the_folder_of_the_config_count(tmp_path):
    work_dir = tmp_path / 'run'
    hook = dict(out_dir=str(tmp_path / 'big_disk'), filename_tmpl='step_{}.pth')
    newest = write(tmp_path / 'big_disk' / 'run' / 'step_4.pth', 4)
    assert newest_checkpoint(str(work_dir), hook) == newest


def test_checkpoints_of_which_none_can_be_used_are_not_taken_for_none(tmp_path):
    assert newest_checkpoint(str(tmp_path / 'new')) is None
    (tmp_path / 'iter_4.pth').write_bytes(b'damaged')
    write(tmp_path / 'iter_2.pth', 2, optimizer=None)
    (tmp_path / 'last_checkpoint').write_text('/gone/iter_6.pth')
    with pytest.raises(
        InputError, match=r'no checkpoint .*gone/iter_6.*iter_4.pth: is no file.*iter_2.pth: has weights'
    ):
        newest_checkpoint(str(tmp_path))


@pytest.mark.parametrize('code', [errno.EACCES, errno.ESTALE])
@pytest.mark.parametrize('what', ['listdir', 'read_text'])
def test_what_cannot_be_read_is_not_taken_for_absent(tmp_path, monkeypatch, what, code):
    def fail(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    write(tmp_path / 'iter_4.pth', 4)
    monkeypatch.setattr(*dict(listdir=(os, what), read_text=(Path, what))[what], fail)
    with pytest.raises(InputError, match=rf'cannot be read \({os.strerror(code)}\)'):
        newest_checkpoint(str(tmp_path))


def test_a_new_run_that_has_saved_nothing_does_not_resume_the_one_before(tmp_path, warnings):
    (tmp_path / 'last_checkpoint').write_text(write(tmp_path / 'iter_4.pth', 4, run='first'))
    enter_folder(str(tmp_path), 'second').close()
    assert newest_checkpoint(str(tmp_path)) is None
    assert f'--resume {tmp_path / "iter_4.pth"}' in warnings.text
    newest = write(tmp_path / 'iter_2.pth', 2, run='second')
    assert newest_checkpoint(str(tmp_path)) == newest
    enter_folder(str(tmp_path), 'first').close()
    assert newest_checkpoint(str(tmp_path)) == str(tmp_path / 'iter_4.pth')


def test_two_processes_never_train_in_one_folder(tmp_path):
    lock = "import fcntl, sys; file = open('.run', 'a'); fcntl.lockf(file, fcntl.LOCK_EX); "
    code = f"{lock}print('in', flush=True); sys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, '-c', code], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == 'in\n'
        with pytest.raises(InputError, match='another process is training in'):
            enter_folder(str(tmp_path), None)
    finally:
        other.kill()
        other.communicate()
    enter_folder(str(tmp_path), None).close()


def test_a_file_system_without_locks_is_one_to_train_on(tmp_path, monkeypatch):
    def lockf(*args):
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr('fcntl.lockf', lockf)
    enter_folder(str(tmp_path), 'mine').close()
    assert (tmp_path / '.run').read_text() == 'mine'


def test_a_file_with_a_flipped_bit_is_passed_over(tmp_path):
    (tmp_path / 'last_checkpoint').write_text(write(tmp_path / 'iter_4.pth', 4, weights=torch.ones(1000)))
    older = write(tmp_path / 'iter_2.pth', 2)
    content = bytearray((tmp_path / 'iter_4.pth').read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / 'iter_4.pth').write_bytes(content)
    assert newest_checkpoint(str(tmp_path)) == older
    with pytest.raises(InputError, match='iter_4.pth: is damaged .*the checksum of iter_4/data/. is wrong'):
        load_checkpoint_file(str(tmp_path / 'iter_4.pth'))


@pytest.fixture
def warnings(caplog):
    """What is logged."""
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def test_a_checkpoint_newer_than_last_checkpoint_is_announced(tmp_path, warnings):
    (tmp_path / 'last_checkpoint').write_text(write(tmp_path / 'iter_2.pth', 2))
    newest = write(tmp_path / 'iter_4.pth', 4)
    assert newest_checkpoint(str(tmp_path)) == newest
    assert f'Resumed from {newest}, after iteration 4' in warnings.text


def test_a_new_start_in_the_folder_of_another_run_is_announced(tmp_path, warnings):
    note_earlier_run(str(tmp_path))
    assert not warnings.text
    write(tmp_path / 'iter_4.pth', 4)
    note_earlier_run(str(tmp_path))
    assert 'holds iter_4.pth of an earlier run' in warnings.text


def test_a_weight_of_another_shape_is_named():
    checkpoint = dict(state_dict=dict(weight=torch.zeros(2, 3), bias=torch.zeros(2)))
    check_checkpoint_fits(checkpoint, 'file.pth', torch.nn.Linear(3, 2))
    checkpoint['state_dict']['bias'] = torch.zeros(4)
    with pytest.raises(InputError, match=r'bias has shape \(4,\) in the file and \(2,\) in the model'):
        check_checkpoint_fits(checkpoint, 'file.pth', torch.nn.Linear(3, 2))


def test_surplus_weights_are_announced(warnings):
    checkpoint = dict(state_dict={'weight': torch.zeros(2, 3), 'bias': torch.zeros(2), 'head.weight': torch.zeros(1)})
    check_checkpoint_fits(checkpoint, 'file.pth', torch.nn.Linear(3, 2))
    assert 'file.pth holds 1 weights that the model has not (head.weight, ...): they are not used' in warnings.text


def test_a_truncated_file_is_named(tmp_path):
    path = Path(write(tmp_path / 'iter_2.pth'))
    assert load_checkpoint_file(str(path))['state_dict'].keys() == {'weight'}
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match='iter_2.pth'):
        load_checkpoint_file(str(path))


class Storage(LocalBackend):
    """A storage under addresses of its own."""

    def list_dir_or_file(self, dir_path: str, *args, **kwargs):
        if 'closed' in dir_path:
            raise PermissionError('no key')
        return super().list_dir_or_file(dir_path.replace('stored://', '/'), *args, **kwargs)


def test_checkpoints_on_another_storage_are_never_overwritten_by_a_new_start(tmp_path):
    register_backend('stored', Storage, prefixes='stored', force=True)
    hook = dict(out_dir=f'stored:/{tmp_path}')
    assert newest_checkpoint('runs/mine', hook) is None
    write(tmp_path / 'mine' / 'iter_4.pth', 4)
    with pytest.raises(InputError, match='holds checkpoints.*--resume ADDRESS'):
        newest_checkpoint('runs/mine', hook)
    with pytest.raises(InputError, match='cannot be listed .PermissionError: no key'):
        newest_checkpoint('runs/mine', dict(out_dir='stored://closed'))


def load(content: object) -> object:
    file = io.BytesIO()
    torch.save(content, file)
    file.seek(0)
    return torch.load(file)


@SAFE
def test_a_log_and_numpy_numbers_are_loaded_safely():
    log = HistoryBuffer()
    log.update(1.5)
    log.update(2)
    loaded = load(dict(log=log, eta=np.float64(3), flags=np.array([True]), best=np.float32(0.25)))
    assert loaded['log'].mean() == 1.75
    assert loaded['log'].statistics('max') == 2
    assert loaded['eta'] == 3
    assert loaded['best'] == np.float32(0.25)


@SAFE
def test_numpys_names_before_and_after_version_2_are_known():
    names = {item[1] for item in torch.serialization.get_safe_globals() if isinstance(item, tuple)}
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
        assert {f'{module}.scalar', f'{module}._reconstruct'} <= names


class Attribute:
    """Pickled as the read of an attribute, as an attack would do it."""

    def __init__(self, owner: object, name: str) -> None:
        self.pair = (owner, name)

    def __reduce__(self) -> tuple:
        return getattr, self.pair


@SAFE
@pytest.mark.parametrize('attribute', [Attribute(HistoryBuffer, '__init__'), Attribute(np.ndarray, 'tofile')])
def test_no_other_attribute_can_be_reached_from_a_file(attribute):
    with pytest.raises(pickle.UnpicklingError, match='not allowed'):
        load(attribute)
