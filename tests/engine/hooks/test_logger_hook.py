import json
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
from mmdet.registry import VISBACKENDS
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.visualization import BaseVisBackend
from support.small_disk import mount_small_disk
from support.tiny_training import HOOKS, NumberedImages, PredictsNothing, few_weights_runner

from mmdet_sag.errors import InputError


@pytest.fixture
def disk(tmp_path):
    """A disk of 1 MB."""
    with mount_small_disk(tmp_path / 'disk', '1m') as folder:
        yield folder


class FillDisk(Hook):
    """Fills the disk to the last byte in an iteration, and removes the filling in another."""

    priority = 'HIGHEST'

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        folder = Path(runner.work_dir)
        if runner.iter + 1 == self.first:
            # The last page of a file has room too.
            for file in (folder / 'filling', *folder.rglob('*.json'), *folder.rglob('*.log'), folder / 'stdout'):
                with pytest.raises(OSError, match='No space'), open(file, 'ab', buffering=0) as stream:
                    for size in [*[1 << 16] * 100, *[1] * 4097]:
                        stream.write(b'\n' * size)
        if runner.iter == self.last:
            (folder / 'filling').unlink()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        print('as libraries do' * 1000)


@VISBACKENDS.register_module(force=True)
class ServiceVisBackend(BaseVisBackend):
    """A service that is down; it has errors of its own."""

    experiment = None

    def _init_env(self) -> None:
        pass

    def add_scalars(self, *args, **kwargs) -> None:
        raise RuntimeError('the service is down')


class Written(BaseMetric):
    """A metric that writes a file, as COCO's do."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def process(self, data_batch, data_samples) -> None:
        self.results.append(0)

    def compute_metrics(self, results) -> dict:
        Path(self.folder, f'{len(list(self.folder.iterdir()))}.txt').write_text('x' * 10_000)
        return dict(score=1.0)


def train(work_dir: Path, last: int, **options) -> None:
    torch.manual_seed(0)
    few_weights_runner(
        work_dir,
        9,
        PredictsNothing(),
        train_cfg=dict(type='ReproducibleIterBasedTrainLoop', max_iters=9, val_interval=3),
        val_dataloader=dict(dataset=NumberedImages(), sampler=dict(type='DefaultSampler', shuffle=False), batch_size=2),
        val_cfg=dict(type='ValLoop'),
        val_evaluator=Evaluator([Written(work_dir)]),
        default_hooks=dict(HOOKS, checkpoint=dict(HOOKS['checkpoint'], save_best='score', rule='greater')),
        custom_hooks=[FillDisk(5, last)],
        visualizer=dict(
            type='DetLocalVisualizer', vis_backends=[dict(type='LocalVisBackend'), dict(type='ServiceVisBackend')]
        ),
        **options,
    ).train()


def test_a_disk_without_a_byte_of_room_costs_logs_only(disk, capsys):
    with open(disk / 'stdout', 'a') as stdout, redirect_stdout(stdout):
        train(disk, last=8)
    assert torch.load((disk / 'last_checkpoint').read_text())['meta']['iter'] == 9
    (scalars,) = disk.glob('*/vis_data/scalars.json')
    assert '"step": 9' in scalars.read_text()
    (log,) = disk.glob('*/*.log')
    text = log.read_text()
    for name in (str(log), 'LocalVisBackend', 'ServiceVisBackend', 'A file of Written', 'stdout'):
        assert text.count(f'{name} cannot be written') == 1, name
    assert not capsys.readouterr().err


def test_if_it_stays_full_the_last_checkpoint_stays(disk):
    with open(disk / 'stdout', 'a') as stdout, redirect_stdout(stdout):
        with pytest.raises(InputError, match='the last checkpoint could not be written'):
            train(disk, last=99)
        (disk / 'filling').unlink()
    assert torch.load((disk / 'last_checkpoint').read_text())['meta']['iter'] == 4


@pytest.mark.parametrize('rank', [0, 1])
def test_the_first_process_alone_writes_the_metrics_of_a_test(tmp_path, monkeypatch, rank):
    few_weights_runner(
        tmp_path,
        0,
        PredictsNothing(),
        test_dataloader=dict(dataset=NumberedImages(), sampler=dict(type='DefaultSampler', shuffle=False)),
        test_cfg=dict(type='TestLoop'),
        test_evaluator=Evaluator([Written(tmp_path)]),
        custom_hooks=[AsRank(monkeypatch, rank)],
    ).test()
    assert [json.loads(path.read_text())['score'] for path in tmp_path.glob('*/*.json')] == [1.0] * (rank == 0)


class AsRank(Hook):
    """Lets the hooks after the test run as in another process of a job."""

    priority = 'HIGHEST'

    def __init__(self, monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
        self.monkeypatch, self.rank = monkeypatch, rank

    def after_test_epoch(self, runner, metrics=None) -> None:
        self.monkeypatch.setattr('mmengine.dist.utils.get_rank', lambda group=None: self.rank)
