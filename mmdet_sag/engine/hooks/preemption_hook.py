import contextlib
import functools
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from mmdet.registry import HOOKS
from mmengine.dist import all_reduce, barrier, get_world_size
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import BaseLoop, Runner
from torch import nn

from ...command_line import is_main_process_of_node
from ...errors import InputError
from ..runner.loops import VALIDATED_AT
from .atomic_checkpoint_hook import AtomicCheckpointHook, ends_epoch, weights_changed
from .loss_guard_hook import LossGuardHook

# Seconds within which two signals are one Ctrl-C: a launcher forwards it to processes that the terminal has signalled.
_SAME_INTERRUPT = 1.0
# If one of these hooks fails, the state is neither that before nor that after all of them.
_CHANGING = ('after_train_iter', 'after_train_epoch', 'before_val_epoch', 'after_val_epoch')


@HOOKS.register_module()
class PreemptionHook(Hook):
    """Saves a checkpoint before the process ends by a scheduler's signal, Ctrl-C, a closed terminal or an error.

    After a signal, the current iteration (with gradient accumulation the next one that updates the weights) is
    finished, a checkpoint is saved, and the process exits with status 128 + number of the signal: 143 for SIGTERM, 138
    for SIGUSR1 (on Linux), 130 for SIGINT (Ctrl-C), 129 for SIGHUP, which stays ignored under ``nohup``. ``--resume``
    continues from there.

    After an error, such as a killed data worker or an unreadable image, the state after the last update of the weights
    is saved and the error is raised. Within an iteration, this needs :class:`LossGuardHook`. The state is not saved if
    the next update has begun, if a hook that changes the state failed, or in a distributed run, where the other
    processes may wait for this one.

    In a distributed run, all processes stay until the checkpoint is complete, because a launcher ends the others as
    soon as one leaves. Until then, more signals of a scheduler have no effect. A second Ctrl-C, more than a second
    after the first, ends the process at once. When the training ends, the previous signal handlers are restored.

    Args:
        signals: Names of the signals. Those that the system does not have are ignored.
        sync_interval: Number of iterations after which the processes of a distributed run share the signals that they
            received, so that all stop at the same iteration.
    """

    # After everything that changes the state, and after this iteration's own checkpoint.
    priority = 'LOWEST'

    def __init__(
        self, signals: Sequence[str] = ('SIGTERM', 'SIGUSR1', 'SIGINT', 'SIGHUP'), sync_interval: int = 10
    ) -> None:
        self.signals = [getattr(signal, name) for name in signals if hasattr(signal, name)]
        self.sync_interval = sync_interval
        self._received = 0
        self._interrupted_at: float | None = None
        self._agreed = 0
        self._at_epoch_end = False
        self._previous: dict[int, Any] = {}
        # Finished iterations at the start.
        self._start = math.inf
        # Epochs and iterations after which the state in memory is whole. None: it is not, or LossGuardHook knows.
        self._position: tuple[int, int] | None = None
        self._changing = False
        self._val_stage = ''

    def before_run(self, runner: Runner) -> None:
        """Handle the signals while the training loop runs."""
        # No hook is called when a training fails, so the loop's own run is wrapped.
        loop = runner._train_loop
        if isinstance(loop, BaseLoop) and 'run' not in vars(loop):
            loop.run = functools.partial(self._run, runner, loop.run)

    def before_train(self, runner: Runner) -> None:
        """Find the other hooks that are needed."""
        self._checkpoint_hook = AtomicCheckpointHook.of(runner)
        self._guard = next((hook for hook in runner.hooks if isinstance(hook, LossGuardHook)), None)
        self._start = runner.iter

    def after_train_iter(self, runner: Runner, batch_idx: int, *args: Any, **kwargs: Any) -> None:
        """Stop if there was a signal."""
        if get_world_size() == 1:
            self._agreed = self._received
        elif self.every_n_train_iters(runner, self.sync_interval):
            received = torch.tensor(self._received)
            all_reduce(received, 'max')
            self._agreed = int(received)
        if not self._agreed or runner.iter + 1 >= runner.max_iters or not weights_changed(runner):
            return
        if ends_epoch(runner, batch_idx):
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
        runner.call_hook = functools.partial(self._call_hook, runner, runner.call_hook)
        self._pid = os.getpid()
        if threading.current_thread() is threading.main_thread():
            for number in self.signals:
                # nohup ignores it.
                if number != getattr(signal, 'SIGHUP', None) or signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._receive)
        else:
            runner.logger.warning('Training outside of the main thread: signals are not handled.')
        try:
            return run()
        except Exception as e:
            self._save_after(e, runner)
            raise
        finally:
            del runner.call_hook
            while self._previous:
                number, handler = self._previous.popitem()
                # None: the handler was not set from Python.
                signal.signal(number, handler or signal.SIG_DFL)

    def _call_hook(self, runner: Runner, call_hook: Callable[..., None], name: str, **kwargs: Any) -> None:
        """Call the hooks, and note of which iteration the state in memory is."""
        if name in _CHANGING:
            self._changing = True
        if name in ('before_val', 'before_val_epoch', 'after_val_epoch'):
            self._val_stage = name
        call_hook(name, **kwargs)
        if name == 'before_train_iter':
            self._position = None
            self._defer_child_errors()
        elif name == 'after_train_iter':
            whole = weights_changed(runner) and not ends_epoch(runner, kwargs['batch_idx'])
            self._position = (runner.epoch, runner.iter + 1) if whole else None
        elif name == 'after_train_epoch' and weights_changed(runner):
            self._position = (runner.epoch + 1, runner.iter)
        if name in _CHANGING:
            self._changing = False

    def _defer_child_errors(self) -> None:
        """Keep PyTorch from raising, in the middle of an update, that a data worker died.

        It does so in its signal handler. The data loader finds out by itself when it waits for the next batch.
        """
        number = getattr(signal, 'SIGCHLD', None)
        # The data loader has set the handler when it started its workers.
        unknown = number and self._previous and number not in self._previous
        if unknown and callable(handler := signal.getsignal(number)):
            self._previous[number] = signal.signal(
                number, lambda *args: handler(*args) if os.getpid() != self._pid or self._is_whole() else None
            )

    def _is_whole(self) -> bool:
        """Whether the state after the last update of the weights is in memory."""
        return not self._changing and (self._position is not None or bool(self._guard and self._guard.knows_state()))

    def _save_after(self, error: Exception, runner: Runner) -> None:
        loop = runner.train_loop
        # The state at the end of the training was saved, or could not be.
        if get_world_size() > 1 or loop.iter >= loop.max_iters or loop.stop_training or loop.iter <= self._start:
            return
        after = f'Stopped by {type(error).__name__}'
        if not self._is_whole():
            # Hooks that raise an InputError say what became of the state.
            if not isinstance(error, InputError):
                runner.logger.error(
                    f'{after} within an update of the weights, which is not saved: --resume continues from '
                    f'{self._checkpoint_hook.last_ckpt or "the beginning"}.'
                )
            return
        self._changing = True
        try:
            if self._val_stage == 'before_val_epoch':
                for hook in runner.hooks:
                    if isinstance(hook, EMAHook):
                        # It has exchanged weights and averages for the validation.
                        hook.after_val_epoch(runner)
            if self._val_stage.startswith('before'):
                runner.message_hub.update_info(VALIDATED_AT, None)
            position = self._position or self._guard.restore_state()
            path = self._checkpoint_hook.save_now(runner, *position)
            runner.logger.error(
                f'{after} after iteration {position[1]}, whose state is saved. Mend the cause and continue with '
                f'--resume, from {path}.'
            )
        # A GPU may be unusable by now. The first error is raised.
        except Exception as e:
            runner.logger.error(f'{after}, and the state could not be saved: {e}')

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
        # The terminal may be closed.
        with contextlib.suppress(OSError):
            os.write(2, f'\n{text}\n'.encode())
