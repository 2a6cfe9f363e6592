import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

import torch
from mmdet.registry import HOOKS
from mmengine.dist import all_reduce, barrier, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner
from torch import nn

from ...command_line import is_main_process_of_node
from .atomic_checkpoint_hook import AtomicCheckpointHook, weights_changed

# Seconds within which two signals are one Ctrl-C: a launcher forwards it to processes that the terminal has signalled.
_SAME_INTERRUPT = 1.0


@HOOKS.register_module()
class PreemptionHook(Hook):
    """Saves a checkpoint and ends the process on a scheduler's signal or Ctrl-C.

    After a signal, the current iteration is finished, a checkpoint is saved, and the process exits with status
    128 + number of the signal: 143 for SIGTERM, 138 for SIGUSR1 (on Linux), 130 for SIGINT (Ctrl-C). ``--resume``
    continues from there. With gradient accumulation, the next iteration that updates the weights is finished.

    In a distributed run, all processes stay until the checkpoint is complete, because a launcher ends the others as
    soon as one leaves. Until then, more signals of a scheduler have no effect. A second Ctrl-C, more than a second
    after the first, ends the process at once. When the training ends, also by an error, the previous signal handlers
    are restored.

    Args:
        signals: Names of the signals. Those that the system does not have are ignored.
        sync_interval: Number of iterations after which the processes of a distributed run share the signals that they
            received, so that all stop at the same iteration.
    """

    # After everything that changes the state, and after this iteration's own checkpoint.
    priority = 'LOWEST'

    def __init__(self, signals: Sequence[str] = ('SIGTERM', 'SIGUSR1', 'SIGINT'), sync_interval: int = 10) -> None:
        self.signals = [getattr(signal, name) for name in signals if hasattr(signal, name)]
        self.sync_interval = sync_interval
        self._received = 0
        self._interrupted_at: float | None = None
        self._agreed = 0
        self._at_epoch_end = False

    def before_run(self, runner: Runner) -> None:
        """Handle the signals while the training loop runs."""
        # No hook is called when a training fails, so the loop's own run is wrapped.
        loop = runner._train_loop
        if isinstance(loop, BaseLoop) and 'run' not in vars(loop):
            loop.run = functools.partial(self._run, runner, loop.run)

    def before_train(self, runner: Runner) -> None:
        """Find the checkpoint hook."""
        self._checkpoint_hook = AtomicCheckpointHook.of(runner)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Stop if there was a signal."""
        if get_world_size() == 1:
            self._agreed = self._received
        elif self.every_n_train_iters(runner, self.sync_interval):
            received = torch.tensor(self._received)
            all_reduce(received, 'max')
            self._agreed = int(received)
        if not self._agreed or runner.iter + 1 >= runner.max_iters or not weights_changed(runner):
            return
        if isinstance(runner.train_loop, EpochBasedTrainLoop) and batch_idx + 1 == len(runner.train_dataloader):
            # Hooks at the end of an epoch change the state.
            self._at_epoch_end = True
            return
        self._stop(runner, runner.epoch, runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        """Stop if there was a signal in the last iteration of the epoch."""
        if self._at_epoch_end:
            self._stop(runner, runner.epoch + 1, runner.iter)

    def _run(self, runner: Runner, run: Callable[[], nn.Module]) -> nn.Module:
        del runner.train_loop.run
        if threading.current_thread() is not threading.main_thread():
            runner.logger.warning('Training outside of the main thread: signals are not handled.')
            return run()
        self._pid = os.getpid()
        previous = {number: signal.signal(number, self._receive) for number in self.signals}
        try:
            return run()
        finally:
            for number, handler in previous.items():
                # None: the handler was not set from Python.
                signal.signal(number, handler or signal.SIG_DFL)

    def _receive(self, number: int, frame: object) -> None:
        if os.getpid() != self._pid:
            # A forked worker acts as if it had no handler. The terminal sends SIGINT to workers too, but the training
            # needs them until it has stopped by itself.
            if number != signal.SIGINT:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        # torchrun forwards a second Ctrl-C as SIGTERM.
        if number == signal.SIGINT or (self._interrupted_at is not None and 'TORCHELASTIC_RUN_ID' in os.environ):
            self._interrupt()
        else:
            self._received = number

    def _interrupt(self) -> None:
        now = time.monotonic()
        if self._interrupted_at is None:
            self._interrupted_at = now
            self._received = self._received or signal.SIGINT
            _say('Ctrl-C: saving a checkpoint after the current step or validation; press again to stop at once')
        elif now - self._interrupted_at > _SAME_INTERRUPT:
            _say('Ctrl-C: stopped at once; --resume continues from the newest checkpoint')
            os._exit(128 + signal.SIGINT)

    def _stop(self, runner: Runner, epoch: int, iteration: int) -> NoReturn:
        # Returns in all processes when the file is complete.
        path = self._checkpoint_hook.save_now(runner, epoch, iteration)
        runner.logger.info(
            f'{signal.Signals(self._agreed).name}: stopped after iteration {iteration}. Continue with --resume, from '
            f'{path}.'
        )
        barrier()
        sys.exit(128 + self._agreed)


def _say(text: str) -> None:
    # The signal may have interrupted print or a logger, which hold locks.
    if is_main_process_of_node():
        os.write(2, f'\n{text}\n'.encode())
