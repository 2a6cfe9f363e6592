import datetime
from collections.abc import Callable
from typing import Any

from mmdet.registry import HOOKS
from mmengine.dist import all_gather_object, get_world_size, is_main_process
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.hooks import CheckpointHook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor
from torch import distributed as torch_dist

from ...errors import InputError
from ...fileio import AtomicFileBackend

# NCCL gives up after 10 minutes, and a write to a remote storage may take longer.
_LONGEST_WRITE = datetime.timedelta(hours=2)


def weights_changed(runner: Runner) -> bool:
    """Return whether the last iteration updated the weights. With gradient accumulation, not all of them do."""
    return not isinstance(runner.optim_wrapper, OptimWrapper) or runner.optim_wrapper.should_update()


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
    - If a checkpoint cannot be written (a full disk), an error is logged, the older checkpoints stay, and training
      continues. It fails at the end if the last state could not be saved.

    Folders on other storages are written as by MMEngine. The arguments are those of ``CheckpointHook``.
    """

    _due = False
    _unsaved = False
    _saved_state = None
    _meta: dict | None = None
    _process_group = None

    @classmethod
    def of(cls, runner: Runner) -> 'AtomicCheckpointHook':
        """Return the hook that saves a runner's checkpoints.

        Raises:
            InputError: The runner has a different checkpoint hook.
        """
        for hook in runner.hooks:
            if isinstance(hook, cls):
                return hook
        raise InputError(
            "set default_hooks.checkpoint.type='AtomicCheckpointHook': other hooks save checkpoints through it"
        )

    def before_train(self, runner: Runner) -> None:
        """Prepare the output folder."""
        super().before_train(runner)
        if isinstance(self.file_backend, LocalBackend):
            self.backend_args = dict(backend='atomic_file')
            self.file_backend = get_file_backend(self.out_dir, backend_args=self.backend_args)
        # From the resumed run.
        self.last_ckpt = runner.message_hub.runtime_info.get('last_ckpt')
        if get_world_size() > 1 and self._process_group is None:
            # Not NCCL: its watchdog kills a process that waits for longer than the timeout.
            self._process_group = torch_dist.new_group(backend='gloo', timeout=_LONGEST_WRITE)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check the weights.

        Raises:
            InputError: Some weights are not finite.
        """
        if self._meta is not None:
            # FlexibleRunner replaces epoch and iteration by its own count.
            checkpoint['meta'].update(self._meta)
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
        """Publish the checkpoint if the config says so.

        Raises:
            InputError: The last checkpoint could not be written.
        """
        self._check_saved()
        super().after_train(runner)

    def save_now(self, runner: Runner, epoch: int, iteration: int) -> str:
        """Save a checkpoint outside of the interval. All processes must call it.

        Args:
            runner: The runner.
            epoch: Number of finished epochs.
            iteration: Number of finished iterations.

        Returns:
            Path of the checkpoint, named ``iter_<iteration>.pth``.

        Raises:
            InputError: It could not be written, or its weights are not finite.
        """
        if self._saved_state != (epoch, iteration):
            meta = dict(epoch=epoch, iter=iteration)
            if self.by_epoch:
                filename = f'iter_{iteration}.pth'
                previous = runner.message_hub.runtime_info.get('ckpt_within_epoch')
                # Before the file is written: a run that resumes from it must know what it may remove.
                runner.message_hub.update_info('ckpt_within_epoch', filename)
                if self._save(runner, filename, meta) and previous != filename:
                    self._remove_outdated(previous)
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
        outdated = []
        if self.max_keep_ckpts > 0:
            before = list(self.keep_ckpt_ids)
            ids = [kept for kept in before if kept != step] + [step]
            outdated = ids[: -self.max_keep_ckpts]
            self._keep(runner, ids[-self.max_keep_ckpts :])
        if self._save(runner, self.filename_tmpl.format(step), meta):
            self._remove_outdated(*map(self.filename_tmpl.format, outdated))
            if self.by_epoch:
                self._remove_outdated(runner.message_hub.runtime_info.get('ckpt_within_epoch'))
        elif self.max_keep_ckpts > 0:
            self._keep(runner, before)

    def _keep(self, runner: Runner, steps: list[int]) -> None:
        self.keep_ckpt_ids.clear()
        self.keep_ckpt_ids.extend(steps)
        runner.message_hub.update_info('keep_ckpt_ids', steps)

    def _remove_outdated(self, *filenames: str | None) -> None:
        if self.max_keep_ckpts > 0:
            self._remove(*(self.file_backend.join_path(self.out_dir, name) for name in filenames if name))

    def _remove(self, *paths: str) -> None:
        for path in paths if is_main_process() else ():
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
                # The work folder is local, wherever the checkpoints are.
                AtomicFileBackend().put_text(self.last_ckpt, f'{runner.work_dir}/last_checkpoint')

        self._meta = meta
        self._unsaved = True
        try:
            self._in_all_processes(save)
            self._unsaved = False
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
        if not self._unsaved:
            self._saved_state = (meta['epoch'], meta['iter'])
        return not self._unsaved

    def _in_all_processes(self, save: Callable[[], None]) -> None:
        """Run ``save``, which writes on rank 0 only, and raise in all processes if it failed in one."""
        error = None
        try:
            save()
        except (InputError, OSError) as e:
            error = e
        for failure in all_gather_object(error, self._process_group):
            if failure is not None:
                raise failure

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
            self._in_all_processes(lambda: super(AtomicCheckpointHook, self)._save_best_checkpoint(runner, metrics))
        except OSError as e:
            runner.logger.error(f'The best checkpoint was not written: {e.strerror or e}. Make room for it.')
            for key in _best(info):
                del info[key]
            info.update(before)
        finally:
            self.last_ckpt = last_ckpt
            self._set_best(info)
        if _best(info) != before:
            self._remove(*(path for key, path in before.items() if key.startswith('best_ckpt') and path != info[key]))
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
