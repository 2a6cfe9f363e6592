import json
from pathlib import Path

import cv2
import pytest
import torch
from support.tiny_panoptic import SIZE, shapes_config, write_shapes
from support.tool import run_tool

TOOLS = Path(__file__).parents[2] / 'tools'
NAMES = {f'coco_panoptic/{name}{part}' for name in ('PQ', 'SQ', 'RQ') for part in ('', '_th', '_st')}


def run(tool, *arguments, folder, processes=1):
    launcher = ('--launcher', 'pytorch') if processes > 1 else ()
    process = run_tool(TOOLS / tool, *arguments, *launcher, cwd=folder, processes=processes)
    return process.returncode, process.stdout + process.stderr


def succeed(tool, *arguments, folder, processes=1):
    status, output = run(tool, *arguments, folder=folder, processes=processes)
    assert status == 0, output[-3000:]
    return output


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """A folder with a panoptic data set and a config that trains on it for six steps."""
    folder = tmp_path_factory.mktemp('panoptic')
    write_shapes(folder / 'data', num_train=6, num_val=3)
    config = shapes_config(folder / 'data')
    # Low scores count too: this short training is to be measured, not good.
    config.model.test_cfg.bbox_head.score_thr = 0.001
    config.model.test_cfg.panoptic.score_thr = 0.001
    config.dump(folder / 'config.py')
    return folder


@pytest.fixture(scope='module')
def checkpoint(folder) -> Path:
    """The last checkpoint of a training on two processes."""
    succeed('train.py', 'config.py', '--work-dir', 'two', folder=folder, processes=2)
    return folder / (folder / 'two/last_checkpoint').read_text()


def metrics(work_dir: Path) -> dict:
    (path,) = work_dir.glob('*/*.json')
    return {key: value for key, value in json.loads(path.read_text()).items() if key.startswith('coco')}


def test_two_processes_evaluate_as_one_and_ap_and_pq_come_together(folder, checkpoint):
    assert checkpoint.name == 'iter_6.pth'
    command = ('config.py', checkpoint)
    succeed('test.py', *command, '--work-dir', 'test two', folder=folder, processes=2)
    succeed('test.py', *command, '--work-dir', 'one', '--show-dir', 'drawn', folder=folder)
    expected = metrics(folder / 'one')
    assert set(expected) > NAMES | {'coco/bbox_mAP', 'coco/segm_mAP'}
    assert metrics(folder / 'test two') == expected
    pictures = list((folder / 'one').glob('*/drawn/*'))
    assert len(pictures) == 3
    # Truth and prediction, side by side, enlarged eight times.
    assert cv2.imread(str(pictures[0])).shape[1] == 2 * 8 * SIZE


def test_a_resumed_training_gives_the_same_bits_as_one_that_never_stopped(folder):
    train = ('train.py', 'config.py', '--work-dir', 'resumed')
    succeed(*train, folder=folder)
    path = folder / 'resumed/iter_6.pth'
    straight = torch.load(path, weights_only=True)
    path.unlink()
    succeed(*train, '--resume', 'resumed/iter_2.pth', folder=folder)
    resumed = torch.load(path, weights_only=True)
    for part in ('state_dict', 'ema_state_dict'):
        for name, value in straight[part].items():
            assert torch.equal(value, resumed[part][name]), name
    assert any(name.startswith('semantic_head') for name in straight['state_dict'])


def test_broken_panoptic_data_end_in_one_line(folder):
    options = ('--cfg-options', 'train_dataloader.dataset.data_prefix.seg=absent')
    status, output = run('train.py', 'config.py', '--work-dir', 'broken', *options, folder=folder)
    assert status != 0
    assert 'Traceback' not in output
    assert output.splitlines()[-1].startswith("error: folder of panoptic PNG files '")
