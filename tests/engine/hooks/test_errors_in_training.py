"""Trainings that fail: the state after the last update of the weights is saved, and goes on as if nothing had been."""

import gc
import os
import signal
from pathlib import Path

import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from support.tiny_training import HOOKS, NumberedImages, PredictsNothing, few_weights_runner

from mmdet_sag.engine.checkpoint_files import newest_checkpoint


class Broken(Exception):
    """What has failed."""


class Images(NumberedImages):
    """Images of which one was removed, or ends the worker that loads it."""

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def __getitem__(self, index: int) -> dict:
        if index == 7 and self.fault == 'image':
            raise FileNotFoundError('image_7.png')
        if index == 7 and self.fault == 'worker':
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


class Model(PredictsNothing):
    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.count = 0

    def forward(self, inputs: list, data_samples: list, mode: str = 'loss') -> dict | list:
        outputs = super().forward(inputs, data_samples, mode)
        self.count += 1
        if self.fault == 'forward' and self.count == 7 or self.fault == 'validation' and mode == 'predict':
            raise Broken
        return outputs


class FailingHook(Hook):
    priority = 'ABOVE_NORMAL'

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if runner.iter == 6:
            raise Broken


class KilledWorkerInStep(Hook):
    """A data worker is killed while the optimizer updates the weights."""

    def before_train(self, runner) -> None:
        def kill(*args) -> None:
            if runner.iter == 5:
                (worker, *_) = runner.train_loop.dataloader_iterator.gi_frame.f_locals['dataloader']._iterator._workers
                os.kill(worker.pid, signal.SIGKILL)
                worker.join()

        runner.optim_wrapper.optimizer.register_step_post_hook(kill)


class Count(BaseMetric):
    def process(self, data_batch, data_samples) -> None:
        self.results.append(0)

    def compute_metrics(self, results) -> dict:
        return dict(score=1.0)


def train(work_dir: Path, fault: str = '', workers: int = 0, accumulative_counts: int = 1, **options) -> dict:
    """Train on from the newest checkpoint, and return the last one."""
    torch.manual_seed(0)
    path = newest_checkpoint(str(work_dir))
    loader = dict(dataset=Images(fault), sampler=dict(type='InfiniteSampler', shuffle=True), batch_size=2)
    options = dict(dict(custom_hooks=[]), **options)
    options['custom_hooks'] = [*options['custom_hooks'], dict(type='EMAHook', momentum=0.1, update_buffers=True)]
    few_weights_runner(
        work_dir,
        12,
        Model(fault),
        train_dataloader=dict(loader, num_workers=workers, persistent_workers=workers > 0),
        train_cfg=dict(type='ReproducibleIterBasedTrainLoop', max_iters=12, val_interval=8),
        val_dataloader=dict(dataset=NumberedImages(), sampler=dict(type='DefaultSampler', shuffle=False), batch_size=4),
        val_cfg=dict(type='ValLoop'),
        val_evaluator=Evaluator([Count()]),
        default_hooks={**HOOKS, 'checkpoint': dict(type='AtomicCheckpointHook', by_epoch=False, interval=100)},
        optim_wrapper=dict(
            type='OptimWrapper',
            optimizer=dict(type='SGD', lr=1e-3, momentum=0.9),
            accumulative_counts=accumulative_counts,
        ),
        param_scheduler=[dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=20)],
        load_from=path,
        resume=path is not None,
        log_level='ERROR',
        **options,
    ).train()
    return torch.load(work_dir / 'iter_12.pth')


def assert_goes_on(folder: Path, capfd, iteration: int | None = None, **options) -> None:
    """The state after an iteration was saved, and a resumed run ends like one that never stopped."""
    # PyTorch tells of dead workers until their data loader is gone.
    gc.collect()
    (saved,) = folder.glob('failed/*.pth')
    assert f'--resume, from {saved}' in capfd.readouterr().out
    assert iteration is None or saved.name == f'iter_{iteration}.pth'
    straight, resumed = train(folder / 'straight', **options), train(folder / 'failed', **options)
    for part in ('state_dict', 'ema_state_dict'):
        for key, value in straight[part].items():
            assert torch.equal(value, resumed[part][key]), key
    assert straight['param_schedulers'] == resumed['param_schedulers']
    assert str(straight['optimizer']) == str(resumed['optimizer'])


@pytest.mark.parametrize(
    ('fault', 'error', 'iteration'),
    [('image', FileNotFoundError, None), ('forward', Broken, 6), ('validation', Broken, 8)],
)
def test_the_state_before_an_error_is_saved(tmp_path, capfd, fault, error, iteration):
    with pytest.raises(error):
        train(tmp_path / 'failed', fault)
    assert_goes_on(tmp_path, capfd, iteration)


def test_the_state_before_a_data_worker_died_is_saved(tmp_path, capfd):
    # Found by the handler of the signal, or while a batch is received.
    with pytest.raises((RuntimeError, ConnectionError)):
        train(tmp_path / 'failed', 'worker', workers=1)
    assert_goes_on(tmp_path, capfd)


def test_a_data_worker_that_dies_does_not_interrupt_an_update(tmp_path, capfd):
    with pytest.raises(RuntimeError, match='DataLoader worker'):
        train(tmp_path / 'failed', workers=1, custom_hooks=[KilledWorkerInStep()])
    assert 'torch' in signal.getsignal(signal.SIGCHLD).__module__, 'the handler is back'
    assert_goes_on(tmp_path, capfd)


def test_with_gradient_accumulation_it_is_the_state_after_the_last_update(tmp_path):
    with pytest.raises(Broken):
        train(tmp_path, 'forward', accumulative_counts=4)
    (saved,) = tmp_path.glob('*.pth')
    straight = torch.load(saved)
    assert straight['meta']['iter'] == 4
    # One of a run that stops there by itself.
    with pytest.raises(SystemExit):
        train(tmp_path / 'stopped', accumulative_counts=4, custom_hooks=[StopAfter(4)])
    stopped = torch.load(tmp_path / 'stopped' / 'iter_4.pth')
    assert straight['param_schedulers'] == stopped['param_schedulers']
    assert str(straight['optimizer']) == str(stopped['optimizer'])
    # Without the statistics of the iterations since. The average (EMA) of the weights includes these.
    weights = [dict(checkpoint['ema_state_dict']) for checkpoint in (straight, stopped)]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items() if key != 'steps')


class StopAfter(Hook):
    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if runner.iter + 1 == self.iteration:
            os.kill(os.getpid(), signal.SIGHUP)


def fail_in_step(runner) -> None:
    def fail(*args) -> None:
        if runner.iter == 6:
            raise Broken

    runner.optim_wrapper.optimizer.register_step_post_hook(fail)


class FailingStep(Hook):
    def before_train(self, runner) -> None:
        fail_in_step(runner)


@pytest.mark.parametrize('hook', [FailingHook, FailingStep])
def test_a_state_that_is_half_updated_is_not_saved(tmp_path, capfd, hook):
    with pytest.raises(Broken):
        train(tmp_path, custom_hooks=[hook()])
    assert not list(tmp_path.glob('*.pth'))
    assert '--resume continues from the beginning' in capfd.readouterr().out
