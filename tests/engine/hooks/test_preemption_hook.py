import os
import signal

import pytest
import torch
from mmengine.hooks import Hook
from support.tiny_training import HOOKS, FewWeights, few_weights_runner


class SignalAt(Hook):
    """Sends a signal to this process during an iteration."""

    def __init__(self, iteration: int, number: int) -> None:
        self.iteration = iteration
        self.number = number

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if runner.iter + 1 == self.iteration:
            os.kill(os.getpid(), self.number)


def train(work_dir, iteration: int, max_iters: int = 12, number: int = signal.SIGTERM, **options) -> str:
    """Train until the signal stops it, and return the checkpoint's name."""
    torch.manual_seed(0)
    options = dict(custom_hooks=[SignalAt(iteration, number)], **options) if 'custom_hooks' not in options else options
    runner = few_weights_runner(work_dir, max_iters, FewWeights(), **options)
    with pytest.raises(SystemExit) as stop:
        runner.train()
    assert stop.value.code == 128 + number
    path = (work_dir / 'last_checkpoint').read_text()
    assert torch.load(path)['meta']['iter'] == int(path.split('_')[-1][:-4])
    return os.path.basename(path)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_saves_the_iteration_that_runs_and_stops(tmp_path, number):
    handler = signal.getsignal(number)
    assert train(tmp_path, 5, number=number) == 'iter_5.pth'
    assert signal.getsignal(number) == handler


def test_nohup_goes_on(tmp_path):
    handler = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        few_weights_runner(tmp_path, 6, FewWeights(), custom_hooks=[SignalAt(3, signal.SIGHUP)]).train()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, handler)


def test_with_gradient_accumulation_the_stop_waits_for_the_weights(tmp_path):
    optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=1e-3), accumulative_counts=4)
    assert train(tmp_path, 5, optim_wrapper=optim_wrapper) == 'iter_8.pth'


class Fails(Hook):
    """Fails in an iteration as a training does."""

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if runner.iter == 2:
            raise RuntimeError('CUDA out of memory')


def test_a_training_that_fails_gives_the_signals_back(tmp_path):
    handler = signal.getsignal(signal.SIGTERM)
    for number in range(2):
        with pytest.raises(RuntimeError, match='out of memory'):
            few_weights_runner(tmp_path / str(number), 12, FewWeights(), custom_hooks=[Fails()]).train()
        assert signal.getsignal(signal.SIGTERM) == handler
    few_weights_runner(tmp_path / 'good', 3, FewWeights()).train()
    assert signal.getsignal(signal.SIGTERM) == handler


class SignalWhileSaving(Hook):
    """Sends one more signal to this process while the checkpoint after iteration 5 is written."""

    def before_save_checkpoint(self, runner, checkpoint) -> None:
        if checkpoint['meta']['iter'] == 5:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_second_signal_does_not_cut_the_saving_short(tmp_path):
    assert train(tmp_path, 5, custom_hooks=[SignalAt(5, signal.SIGTERM), SignalWhileSaving()]) == 'iter_5.pth'


def test_stops_within_epochs_leave_one_checkpoint(tmp_path):
    hooks = {**HOOKS, 'checkpoint': dict(type='AtomicCheckpointHook', interval=1, max_keep_ckpts=2)}
    path = None
    for iteration in (2, 3, 8, 9):
        train(tmp_path, iteration, max_iters=24, by_epoch=True, default_hooks=hooks, load_from=path, resume=bool(path))
        path = (tmp_path / 'last_checkpoint').read_text()
        expected = [f'iter_{iteration}.pth'] if iteration < 6 else ['epoch_1.pth', f'iter_{iteration}.pth']
        assert sorted(file.name for file in tmp_path.glob('*.pth')) == expected
    few_weights_runner(
        tmp_path, 24, FewWeights(), by_epoch=True, default_hooks=hooks, load_from=path, resume=True
    ).train()
    assert sorted(file.name for file in tmp_path.glob('*.pth')) == ['epoch_3.pth', 'epoch_4.pth']


@pytest.mark.parametrize('max_keep_ckpts', [-1, 0])
def test_without_a_limit_the_checkpoint_within_an_epoch_stays(tmp_path, max_keep_ckpts):
    hooks = {**HOOKS, 'checkpoint': dict(type='AtomicCheckpointHook', interval=1, max_keep_ckpts=max_keep_ckpts)}
    path = str(tmp_path / train(tmp_path, 2, by_epoch=True, default_hooks=hooks))
    few_weights_runner(
        tmp_path, 12, FewWeights(), by_epoch=True, default_hooks=hooks, load_from=path, resume=True
    ).train()
    assert sorted(file.name for file in tmp_path.glob('*.pth')) == ['epoch_1.pth', 'epoch_2.pth', 'iter_2.pth']


@pytest.mark.parametrize('iteration', [8, 12])
def test_an_epoch_goes_on_where_it_was_left(tmp_path, iteration):
    torch.manual_seed(0)
    straight = FewWeights()
    few_weights_runner(tmp_path / 'straight', 18, straight, by_epoch=True).train()

    name = train(tmp_path / 'stopped', iteration, max_iters=18, by_epoch=True)
    assert name == f'iter_{iteration}.pth'
    resumed = FewWeights()
    few_weights_runner(
        tmp_path / 'stopped', 18, resumed, by_epoch=True, load_from=str(tmp_path / 'stopped' / name), resume=True
    ).train()
    for key, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
