import contextlib
import hashlib
import itertools
import os
import pickle
import re
import socket
import time
import uuid
from pathlib import Path
from typing import IO, Any

import torch
from mmdet.registry import HOOKS
from mmengine.dist import get_rank, get_world_size, is_main_process
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.hooks import CheckpointHook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor, nn
from torch.distributed.distributed_c10d import _get_default_store
from torch.nn.parallel import DistributedDataParallel

from ...errors import InputError
from ..checkpoint_files import AtomicFileBackend, apply_settings, check_checkpoint_fits, enter_folder, training_state
from ..launch import in_all_processes

# Seconds. A write to a remote storage may take long.
_LONGEST_WRITE = 2 * 60 * 60
_LONGEST_READ = 10
_exchanges = itertools.count()
_WITHIN_EPOCH = 'ckpt_within_epoch'


def exchange(value: Any) -> list:
    """Return the values of all processes, in the order of their ranks.

    It goes through the store by which the processes found each other: NCCL's watchdog kills a process that waits for
    long, and gloo beside NCCL would need an address of its own.
    """
    if get_world_size() == 1:
        return [value]
    store, number = _get_default_store(), next(_exchanges)
    keys = [f'checkpoint_{number}_{rank}' for rank in range(get_world_size())]
    store.set(keys[get_rank()], pickle.dumps(value))
    deadline = time.monotonic() + _LONGEST_WRITE
    # The store's own way to wait lets no signal through.
    while not store.check(keys):
        if time.monotonic() > deadline:
            raise TimeoutError(f'another process has not answered for {_LONGEST_WRITE} seconds')
        time.sleep(0.05)
    values = [pickle.loads(store.get(key)) for key in keys]
    # Without torchrun, the store ends with rank 0, which may do so because of these values.
    num_read, deadline = f'checkpoint_{number}_read', time.monotonic() + _LONGEST_READ
    store.add(num_read, 1)
    while get_rank() == 0 and store.add(num_read, 0) < len(keys) and time.monotonic() < deadline:
        time.sleep(0.01)
    return values


def optim_wrappers(runner: Runner) -> list[OptimWrapper]:
    """Return the wrappers of all optimizers, of which there may be several."""
    wrapper = runner.optim_wrapper
    wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    # The wrappers of DeepSpeed and ColossalAI step by themselves.
    return [wrapper for wrapper in wrappers if isinstance(wrapper, OptimWrapper)]


def weights_changed(runner: Runner) -> bool:
    """Return whether the last iteration updated the weights. With gradient accumulation, not all of them do."""
    return all(wrapper.should_update() for wrapper in optim_wrappers(runner))


def ends_epoch(runner: Runner, batch_idx: int) -> bool:
    """Return whether a batch is the last of its epoch, after which hooks change the state once more."""
    return isinstance(runner.train_loop, EpochBasedTrainLoop) and batch_idx + 1 == len(runner.train_dataloader)


# Configs in the work folders of earlier versions have the second name.
@HOOKS.register_module(name=['AtomicCheckpointHook', 'WholeCheckpointHook'])
class AtomicCheckpointHook(CheckpointHook):
    """Saves checkpoints like MMEngine's ``CheckpointHook``, but atomically.

    For every checkpoint, whichever hook asked for it:

    - Weights, including averaged ones (EMA), must be finite. Otherwise nothing is written and training stops.
    - A file gets its name when it is complete on the disk (:class:`AtomicFileBackend`). Then ``last_checkpoint`` is
      updated. Only then are outdated checkpoints and the previous best one removed.
    - All processes wait until the file is written, and all learn whether that failed.
    - ``max_keep_ckpts`` checkpoints are kept. If epochs are counted, the newest one saved within an epoch
      (:meth:`save_now`) is kept in addition until the next epoch is saved.
    - Only files of its own folder are removed, which the checkpoint names that it has resumed from there.
    - The first file is read back as ``--resume`` will read it. What cannot be read so ends the training.
    - If a checkpoint cannot be written (a full disk), an error is logged, the older checkpoints stay, and training
      continues. It fails at the end if the last state could not be saved.

    Folders on other storages are written as by MMEngine. The arguments are those of ``CheckpointHook``.
    """

    _due = False
    _unsaved = False
    _saved_state = None
    _meta: dict | None = None
    _folder: IO[str] | None = None
    _is_read_back = False

    @classmethod
    def of(cls, runner: Runner) -> 'AtomicCheckpointHook':
        """Return the hook that saves a runner's checkpoints."""
        for hook in runner.hooks:
            if isinstance(hook, cls):
                return hook
        raise InputError(
            "set default_hooks.checkpoint.type='AtomicCheckpointHook': other hooks save checkpoints through it"
        )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check the checkpoint of a resumed run, and let a changed learning rate take effect."""
        if runner._resume:
            check_checkpoint_fits(checkpoint, str(runner._load_from), runner.model)
            apply_settings(runner, checkpoint, str(runner._load_from))

    def before_train(self, runner: Runner) -> None:
        """Prepare the output folder, and check that all processes start from one state."""
        info = runner.message_hub.runtime_info
        # MMEngine would remove files by it.
        kept = info.pop('keep_ckpt_ids', [])
        super().before_train(runner)
        is_local = isinstance(self.file_backend, LocalBackend)
        if is_local:
            self.backend_args = dict(backend='atomic_file')
            self.file_backend = get_file_backend(self.out_dir, backend_args=self.backend_args)
        self.last_ckpt = runner._load_from if runner._resume else None
        self._check_same_state(runner)
        if runner.iter == 0 and 'run' not in info:
            runner.message_hub.update_info('run', uuid.uuid4().hex)

        run = info.get('run')

        def enter() -> None:
            if is_local and is_main_process():
                self._folder = enter_folder(self.out_dir, run if isinstance(run, str) else None)

        in_all_processes(enter, exchange)
        self._adopt_files(runner, kept)

    def _check_same_state(self, runner: Runner) -> None:
        # Other wrappers distribute the weights.
        weights = _digest(runner.model) if isinstance(runner.model, DistributedDataParallel) else ''
        states = exchange((runner.iter, weights, socket.gethostname()))
        for rank, (iteration, digest, host) in enumerate(states):
            if (iteration, digest) != states[0][:2]:
                raise InputError(
                    f'rank {rank} on {host} starts after iteration {iteration} and rank 0 on {states[0][2]} after '
                    f'{states[0][0]}, {"with other weights" if digest != states[0][1] else "with the same weights"}: '
                    'give all machines the same files (a shared folder for --work-dir, --resume or load_from)'
                )

    def _adopt_files(self, runner: Runner, kept: object) -> None:
        """Find what this run may remove of the files that the checkpoint names, and remove what a kill has left."""
        info = runner.message_hub.runtime_info
        # Names from a file of another folder mean nothing here.
        source = runner._load_from if runner._resume else None
        is_here = source is None or os.path.realpath(os.path.dirname(source)) == os.path.realpath(self.out_dir)
        within = info.pop(_WITHIN_EPOCH, [])
        within = [name for name in _as_list(within) if is_here and re.fullmatch(r'iter_\d+\.pth', str(name))]
        runner.message_hub.update_info(_WITHIN_EPOCH, within[-1:])
        for key in [key for key in info if key.startswith('best_ckpt')]:
            name = os.path.basename(str(info.pop(key)))
            if is_here and re.fullmatch(f'best_.*{re.escape(self.filename_tmpl)}'.replace(r'\{\}', r'\d+'), name):
                info[key] = self.file_backend.join_path(self.out_dir, name)
        if self.save_best:
            self._set_best(info)
        if self.max_keep_ckpts > 0:
            steps = [step for step in _as_list(kept) if is_here and type(step) is int and step >= 0]
            self._keep(runner, steps[-self.max_keep_ckpts :])
            self._remove(*map(self.filename_tmpl.format, steps[: -self.max_keep_ckpts]), *within[:-1])
        if source is not None and is_here and is_main_process():
            # A kill may have come between the file and the note of it. A full disk has no room for the note.
            with contextlib.suppress(OSError):
                path = self.file_backend.join_path(self.out_dir, os.path.basename(source))
                AtomicFileBackend().put_text(path, f'{runner.work_dir}/last_checkpoint')

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check that the weights are finite."""
        if self._meta is not None:
            # FlexibleRunner replaces epoch and iteration by its own count.
            checkpoint['meta'].update(self._meta)
        # OneCycleLR, for example, has a method in its state, which no file may name. The class sets it again.
        schedules = checkpoint.get('param_schedulers', [])
        for states in schedules.values() if isinstance(schedules, dict) else [schedules]:
            for state in states:
                for key in [key for key, value in state.items() if callable(value)]:
                    del state[key]
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        # A constant buffer may be infinite; running statistics must be finite like weights.
        constants = {name for name, _ in model.named_buffers() if not name.endswith(('running_mean', 'running_var'))}
        bad = [
            key
            for part in ('state_dict', 'ema_state_dict')
            for key, value in checkpoint.get(part, {}).items()
            if isinstance(value, Tensor) and key.removeprefix('module.') not in constants and not value.isfinite().all()
        ]
        if bad:
            raise InputError(
                f'weights are not finite after iteration {checkpoint["meta"]["iter"]} ({bad[0]}, {len(bad)} in all), '
                'no checkpoint was written: lower the learning rate or clip the gradients (optim_wrapper.clip_grad), '
                'then continue with --resume, from the newest complete one'
            )

    def after_train_iter(self, runner: Runner, batch_idx: int, *args: Any, **kwargs: Any) -> None:
        """Save a checkpoint if it is due, at the end of an epoch only with :meth:`after_train_epoch`."""
        self._ends_epoch = ends_epoch(runner, batch_idx)
        super().after_train_iter(runner, batch_idx, *args, **kwargs)

    def after_train_epoch(self, runner: Runner) -> None:
        """Save a checkpoint if it is due."""
        super().after_train_epoch(runner)
        if self._due:
            self._due = False
            self._save_checkpoint_with_step(runner, runner.iter, dict(epoch=runner.epoch + 1, iter=runner.iter))

    def _save_checkpoint(self, runner: Runner) -> None:
        self._due = not self.by_epoch and self._ends_epoch
        if not self._due:
            super()._save_checkpoint(runner)

    def after_train(self, runner: Runner) -> None:
        """Publish the checkpoint if the config says so; it must have been written."""
        self._check_saved()
        super().after_train(runner)
        if self._folder is not None:
            # Another process may train there.
            self._folder.close()

    def save_now(self, runner: Runner, epoch: int, iteration: int) -> str:
        """Save a checkpoint outside of the interval, named ``iter_<iteration>.pth``; return its path.

        All processes must call it, with the numbers of finished epochs and iterations.

        Raises:
            InputError: It could not be written, or its weights are not finite.
        """
        if self._saved_state != (epoch, iteration):
            meta = dict(epoch=epoch, iter=iteration)
            if self.by_epoch:
                filename = f'iter_{iteration}.pth'
                before = [name for name in runner.message_hub.get_info(_WITHIN_EPOCH) if name != filename]
                # Before the file is written: a run that resumes from it must know what it may remove.
                runner.message_hub.update_info(_WITHIN_EPOCH, [*before, filename])
                if self._save(runner, filename, meta):
                    runner.message_hub.update_info(_WITHIN_EPOCH, [filename])
                    self._remove_outdated(*before)
            else:
                self._save_checkpoint_with_step(runner, iteration, meta)
            self._check_saved()
        return self.last_ckpt

    def _check_saved(self) -> None:
        if self._unsaved:
            raise InputError(
                f'the last checkpoint could not be written to {self.out_dir}: make room and train again with --resume, '
                f'from {self.last_ckpt or "the beginning"}'
            )

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        # MMEngine removes the outdated checkpoint before it writes the new one.
        before = list(self.keep_ckpt_ids) if self.max_keep_ckpts > 0 else []
        steps = [kept for kept in before if kept != step] + [step]
        if self.max_keep_ckpts > 0:
            # With the outdated ones: a run that is killed before they are removed does it when it resumes.
            runner.message_hub.update_info('keep_ckpt_ids', steps)
        saved = self._save(runner, self.filename_tmpl.format(step), meta)
        if self.max_keep_ckpts > 0:
            self._keep(runner, steps[-self.max_keep_ckpts :] if saved else before)
        if saved:
            self._remove_outdated(*map(self.filename_tmpl.format, steps[: -self.max_keep_ckpts]))
            if self.by_epoch:
                self._remove_outdated(*runner.message_hub.runtime_info.get(_WITHIN_EPOCH, []))

    def _keep(self, runner: Runner, steps: list[int]) -> None:
        self.keep_ckpt_ids.clear()
        self.keep_ckpt_ids.extend(steps)
        runner.message_hub.update_info('keep_ckpt_ids', steps)

    def _remove_outdated(self, *filenames: str) -> None:
        if self.max_keep_ckpts > 0:
            self._remove(*filenames)

    def _remove(self, *filenames: str) -> None:
        for filename in filenames if is_main_process() else ():
            path = self.file_backend.join_path(self.out_dir, filename)
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)
            elif self.file_backend.isdir(path):
                # DeepSpeed's checkpoints are folders.
                self.file_backend.rmtree(path)

    def _save(self, runner: Runner, filename: str, meta: dict) -> bool:
        """Write a checkpoint and the pointer to it, and return whether that succeeded."""
        previous, self.last_ckpt = self.last_ckpt, self.file_backend.join_path(self.out_dir, filename)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)

        def save() -> None:
            runner.save_checkpoint(
                self.out_dir,
                filename,
                self.file_client_args,
                save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler,
                meta=dict(meta),
                by_epoch=self.by_epoch,
                backend_args=self.backend_args,
                **self.args,
            )
            if is_main_process():
                if not self._is_read_back and self.save_optimizer and os.path.isfile(self.last_ckpt):
                    self._read_back()
                # The work folder is local, wherever the checkpoints are.
                AtomicFileBackend().put_text(self.last_ckpt, f'{runner.work_dir}/last_checkpoint')

        self._meta = meta
        self._unsaved = True
        try:
            in_all_processes(save, exchange)
            self._unsaved = False
            self._saved_state = (meta['epoch'], meta['iter'])
        except OSError as e:
            runner.logger.error(
                f'Checkpoint {self.last_ckpt} was not written: {e.strerror or e}. Make room for it; the newest '
                f'complete one is {previous or "none yet"}.'
            )
        except InputError as e:
            if weights_changed(runner):
                raise
            # Statistics of a batch whose loss is not finite: LossGuardHook names it before the next step.
            runner.logger.error(str(e))
        finally:
            self._meta = None
            if self._unsaved:
                self.last_ckpt = previous
                runner.message_hub.update_info('last_ckpt', previous)
        return not self._unsaved

    def _read_back(self) -> None:
        """Read the newest checkpoint."""
        try:
            training_state(Path(self.last_ckpt))
        except InputError as e:
            raise InputError(
                f'the first checkpoint was written, but --resume could not read it ({e}): states of hooks, optimizer '
                'and schedule and the metainfo of the data set must be numbers, texts, arrays and tensors'
            ) from e
        self._is_read_back = True

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        if not self.save_best:
            return
        info = runner.message_hub.runtime_info
        before = _best(info)
        # MMEngine removes the previous best checkpoint before it writes the new one, if it knows about it, and then
        # saves the newest one again, if there is one. Both happen here afterwards.
        self._set_best({})
        last_ckpt, self.last_ckpt = self.last_ckpt, None
        try:
            in_all_processes(lambda: super(AtomicCheckpointHook, self)._save_best_checkpoint(runner, metrics), exchange)
        except OSError as e:
            runner.logger.error(f'The best checkpoint was not written: {e.strerror or e}. Make room for it.')
            for key in _best(info):
                del info[key]
            info.update(before)
        finally:
            self.last_ckpt = last_ckpt
            self._set_best(info)
        if _best(info) != before:
            old = [path for key, path in before.items() if key.startswith('best_ckpt') and path != info[key]]
            self._remove(*map(os.path.basename, old))
            # Within a gradient accumulation, it would lose the gradients.
            if self.last_ckpt is not None and weights_changed(runner):
                # A run that resumes from the newest checkpoint must know which best one to remove.
                step = runner.epoch if self.by_epoch else runner.iter
                self._save_checkpoint_with_step(runner, step, dict(epoch=runner.epoch, iter=runner.iter))

    def _set_best(self, info: dict) -> None:
        if len(self.key_indicators) == 1:
            self.best_ckpt_path = info.get('best_ckpt')
        else:
            self.best_ckpt_path_dict = {key: info.get(f'best_ckpt_{key}') for key in self.key_indicators}


def _best(info: dict) -> dict:
    """The scores and paths of the best checkpoints in a run's information."""
    return {key: value for key, value in info.items() if key.startswith('best_')}


def _as_list(value: object) -> list:
    """What a checkpoint lists; earlier versions named one file."""
    return value if isinstance(value, list) else [value]


def _digest(model: nn.Module) -> str:
    """Hash of the weights and buffers of a model."""
    digest = hashlib.sha256()
    for value in model.state_dict().values():
        if isinstance(value, Tensor):
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
