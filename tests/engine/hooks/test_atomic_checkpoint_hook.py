import multiprocessing
import os
import random
import resource
import signal
import time
from pathlib import Path

import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import EMAHook
from support.small_disk import mount_small_disk
from support.tiny_training import HOOKS, FewWeights, NumberedImages, PredictsNothing, few_weights_runner

from mmdet_sag.engine.checkpoint_files import newest_checkpoint
from mmdet_sag.engine.hooks import AtomicCheckpointHook
from mmdet_sag.errors import InputError


class Rising(BaseMetric):
    """Each validation is better than the one before."""

    score = 0

    def process(self, data_batch, data_samples) -> None:
        self.results.append(0)

    def compute_metrics(self, results) -> dict:
        self.score += 1
        return dict(score=self.score)


EVERY_ITERATION = {**HOOKS, 'checkpoint': {**HOOKS['checkpoint'], 'interval': 1}}


def train(work_dir: Path, max_iters: int, num_padding: int = 250_000) -> None:
    checkpoint = newest_checkpoint(str(work_dir))
    few_weights_runner(
        work_dir,
        max_iters,
        FewWeights(num_padding),
        default_hooks=EVERY_ITERATION,
        load_from=checkpoint,
        resume=checkpoint is not None,
        log_level='ERROR',
    ).train()


def done(work_dir: Path) -> int:
    checkpoint = newest_checkpoint(str(work_dir))
    return torch.load(checkpoint)['meta']['iter'] if checkpoint else 0


def files(work_dir: Path) -> list[str]:
    return sorted(path.name for path in work_dir.iterdir() if path.is_file())


def test_only_the_newest_checkpoints_stay(tmp_path):
    train(tmp_path, 5)
    assert sorted(path.name for path in tmp_path.glob('*.pth')) == ['iter_4.pth', 'iter_5.pth']
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'iter_5.pth')
    # A resumed run removes the files of the run before it.
    train(tmp_path, 7)
    assert sorted(path.name for path in tmp_path.glob('*.pth')) == ['iter_6.pth', 'iter_7.pth']


def test_sigkill_at_ten_random_moments_leaves_a_checkpoint_to_go_on_from(tmp_path):
    # A forked process starts at once; its training does nothing but steps of a millisecond and checkpoints. Other tests
    # may have left threads in this process, with which PyTorch refuses to be forked, but not in a server.
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['mmdet.registry', 'mmdet_sag.engine'])
    generator = random.Random(0)
    before = 0
    for _ in range(10):
        process = context.Process(target=train_forked, args=(tmp_path,))
        process.start()
        started = time.monotonic()
        while done_quickly(tmp_path) <= before and time.monotonic() - started < 60:
            time.sleep(0.01)
        time.sleep(generator.uniform(0, 0.1))
        newest = done_quickly(tmp_path)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        for path in tmp_path.glob('*.pth'):
            torch.load(path)
        assert done(tmp_path) >= newest > before
        before = done(tmp_path)


def train_forked(work_dir: Path) -> None:
    # A fork does not inherit threads, and waits for them for ever if it is to use more than one.
    torch.set_num_threads(1)
    train(work_dir, 1_000_000)


def done_quickly(work_dir: Path) -> int:
    """Iteration of the newest file, by its name."""
    return max((int(path.stem.split('_')[1]) for path in work_dir.glob('iter_*.pth')), default=0)


def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path):
    train(tmp_path, 3)
    newest = tmp_path / 'iter_3.pth'
    newest.write_bytes(newest.read_bytes()[:1000])
    assert newest_checkpoint(str(tmp_path)) == str(tmp_path / 'iter_2.pth')


@pytest.mark.parametrize('averaged', [False, True], ids=['weights', 'averaged weights'])
def test_the_best_checkpoint_is_finite_too(tmp_path, averaged):
    hooks = {**HOOKS, 'checkpoint': {**HOOKS['checkpoint'], 'save_best': 'AP', 'rule': 'greater'}}
    runner = few_weights_runner(
        tmp_path, 3, FewWeights(), default_hooks=hooks, custom_hooks=[dict(type='EMAHook')], log_level='ERROR'
    )
    runner.train()
    hook = AtomicCheckpointHook.of(runner)
    hook.after_val_epoch(runner, dict(AP=0.5))
    before = files(tmp_path)
    assert [name for name in before if name.endswith('.pth')] == ['best_AP_iter_3.pth', 'iter_2.pth', 'iter_3.pth']

    (ema,) = (hook for hook in runner.hooks if isinstance(hook, EMAHook))
    broken = ema.ema_model.module if averaged else runner.model
    torch.nn.init.constant_(broken.layers[0].weight, float('nan'))
    with pytest.raises(InputError, match=r'weights are not finite .*layers.0.weight, 1 in all'):
        hook.after_val_epoch(runner, dict(AP=0.6))
    assert files(tmp_path) == before
    assert torch.load(tmp_path / 'best_AP_iter_3.pth')['state_dict']['layers.0.weight'].isfinite().all()


def test_a_constant_of_a_layer_may_be_infinite(tmp_path):
    model = FewWeights()
    model.register_buffer('mask', torch.full((2, 2), -torch.inf))
    few_weights_runner(tmp_path, 3, model, custom_hooks=[dict(type='EMAHook')], log_level='ERROR').train()
    assert torch.load(tmp_path / 'iter_3.pth')['state_dict']['mask'].isinf().all()


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 5 MB."""
    with mount_small_disk(tmp_path / 'disk', '5m') as folder:
        yield folder


def test_a_full_disk_leaves_the_older_checkpoints(small_disk):
    # Each checkpoint has 2 MB: two fit, and the third is to come before the first goes.
    with pytest.raises(InputError, match='make room and train again with --resume'):
        train(small_disk, 4)
    assert [name for name in files(small_disk) if name.endswith('.pth')] == ['iter_1.pth', 'iter_2.pth']
    assert not list(small_disk.glob('.*'))
    assert (small_disk / 'last_checkpoint').read_text() == str(small_disk / 'iter_2.pth')
    assert done(small_disk) == 2


def test_a_limit_on_the_size_of_files_acts_like_a_full_disk(tmp_path):
    train(tmp_path, 2)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(InputError, match='could not be written'):
            train(tmp_path, 4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert done(tmp_path) == 2
    train(tmp_path, 4)
    assert done(tmp_path) == 4


def schedule(work_dir: Path, resume: str | None = None) -> dict:
    """Train two epochs of six iterations with a schedule by epochs, and return the last checkpoint."""
    torch.manual_seed(0)
    few_weights_runner(
        work_dir,
        12,
        FewWeights(),
        by_epoch=True,
        default_hooks={**HOOKS, 'checkpoint': {**HOOKS['checkpoint'], 'interval': 3, 'max_keep_ckpts': -1}},
        param_scheduler=[dict(type='ExponentialLR', gamma=0.5), dict(type='CosineAnnealingMomentum', T_max=3)],
        load_from=resume,
        resume=resume is not None,
        log_level='ERROR',
    ).train()
    return torch.load(work_dir / 'iter_12.pth')


@pytest.mark.parametrize('iteration', [3, 6, 9])
def test_a_checkpoint_at_the_end_of_an_epoch_includes_the_step_of_its_schedule(tmp_path, iteration):
    straight = schedule(tmp_path)
    assert files(tmp_path)[-5:] == ['iter_12.pth', 'iter_3.pth', 'iter_6.pth', 'iter_9.pth', 'last_checkpoint']
    resumed = schedule(tmp_path, str(tmp_path / f'iter_{iteration}.pth'))
    assert straight['param_schedulers'] == resumed['param_schedulers']
    for key, value in straight['state_dict'].items():
        assert torch.equal(value, resumed['state_dict'][key]), key
    assert [scheduler['_global_step'] for scheduler in straight['param_schedulers']] == [2, 2]


def test_the_best_checkpoint_leaves_the_newest_one_at_an_update_of_the_weights(tmp_path):
    checkpoint = {**HOOKS['checkpoint'], 'interval': 4, 'save_best': 'score', 'rule': 'greater'}
    few_weights_runner(
        tmp_path,
        6,
        PredictsNothing(),
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=1e-3), accumulative_counts=4),
        train_cfg=dict(type='ReproducibleIterBasedTrainLoop', max_iters=8, val_interval=3),
        val_dataloader=dict(dataset=NumberedImages(), sampler=dict(type='DefaultSampler', shuffle=False), batch_size=4),
        val_cfg=dict(type='ValLoop'),
        val_evaluator=Evaluator([Rising()]),
        default_hooks={**HOOKS, 'checkpoint': checkpoint},
        log_level='ERROR',
    ).train()
    assert [name for name in files(tmp_path) if name.endswith('.pth')] == [
        'best_score_iter_8.pth',
        'iter_4.pth',
        'iter_8.pth',
    ]
