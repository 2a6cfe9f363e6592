import datetime
from collections.abc import Callable

from mmdet.registry import HOOKS
from mmengine.dist import all_gather_object, get_world_size, is_main_process
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.hooks import CheckpointHook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor
from torch import distributed as torch_dist

from ...errors import InputError
from ...fileio import AtomicFileBackend

# A process group gives up after 10 minutes with NCCL: an address in the cloud may take longer.
_LONGEST_WRITE = datetime.timedelta(hours=2)


# Configs in the work folders of earlier versions have the second name.
@HOOKS.register_module(name=['AtomicCheckpointHook', 'WholeCheckpointHook'])
class AtomicCheckpointHook(CheckpointHook):
    """Saves checkpoints as MMEngine's ``CheckpointHook`` does, each by an atomic write.

    What holds for every checkpoint, whichever hook asked for it:

    - Its weights are finite, the averaged ones (EMA) included. Otherwise it is not written, and training stops.
    - A file gets its name when it is complete and on the disk (:class:`AtomicFileBackend`), ``last_checkpoint`` is
      changed after that, and only then are outdated checkpoints and the previous best one removed.
    - All processes wait until it is written, however long that takes, and then all of them know whether it was.
    - ``max_keep_ckpts`` of them stay. Where epochs are counted, one more that was saved within an epoch
      (:meth:`save_now`) stays until there is a newer one.
    - If a checkpoint cannot be written (a full disk), training goes on with an error in the log and the older
      checkpoints stay. It fails at its end if the last state could not be saved.

    Other than local folders are written as MMEngine writes them. All arguments are those of ``CheckpointHook``.
    """

    _unsaved = False
    _saved_state = None
    _meta: dict | None = None
    _waiting_room = None

    @classmethod
    def of(cls, runner: Runner) -> 'AtomicCheckpointHook':
        """The hook that saves a runner's checkpoints.

        Raises:
            InputError: The runner has another one.
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
        # Of the run that is resumed.
        self.last_ckpt = runner.message_hub.runtime_info.get('last_ckpt')
        if get_world_size() > 1 and self._waiting_room is None:
            # Gloo: a process that waits in NCCL's group for longer than its timeout is killed by the watchdog.
            self._waiting_room = torch_dist.new_group(backend='gloo', timeout=_LONGEST_WRITE)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Look at what is about to be written.

        Raises:
            InputError: There are weights that are not finite.
        """
        if self._meta is not None:
            # FlexibleRunner replaces these two by its own count.
            checkpoint['meta'].update(self._meta)
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        # Infinity may be the constant of a layer; statistics are to be finite as weights are.
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
                'then go on with --resume, from the newest complete one'
            )

    def after_train(self, runner: Runner) -> None:
        """Publish the checkpoint if the config says so.

        Raises:
            InputError: The last checkpoint could not be written.
        """
        self._check_saved()
        super().after_train(runner)

    def save_now(self, runner: Runner, epoch: int, iteration: int) -> str:
        """Save a checkpoint outside of the interval, as ``iter_<iteration>.pth``. All processes have to call it.

        Args:
            runner: The runner of the training process.
            epoch: Number of finished epochs.
            iteration: Number of finished iterations.

        Returns:
            Path of the checkpoint.

        Raises:
            InputError: It could not be written, or its weights are not finite.
        """
        if self._saved_state != (epoch, iteration):
            meta = dict(epoch=epoch, iter=iteration)
            if self.by_epoch:
                filename = f'iter_{iteration}.pth'
                previous = runner.message_hub.runtime_info.get('ckpt_within_epoch')
                # Before the file is written, so that a run that goes on from it knows what it may remove.
                runner.message_hub.update_info('ckpt_within_epoch', filename)
                saved = self._save(runner, filename, meta)
                if saved and previous != filename:
                    self._remove_within_epoch(previous)
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

    def _path(self, filename: str) -> str:
        return self.file_backend.join_path(self.out_dir, filename)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        # Not MMEngine's order, which removes the outdated checkpoint first.
        outdated = []
        if self.max_keep_ckpts > 0:
            before = list(self.keep_ckpt_ids)
            ids = [kept for kept in before if kept != step] + [step]
            outdated = ids[: -self.max_keep_ckpts]
            self._keep(runner, ids[-self.max_keep_ckpts :])
        if self._save(runner, self.filename_tmpl.format(step), meta):
            for old_step in outdated if is_main_process() else ():
                self._remove(self._path(self.filename_tmpl.format(old_step)))
            if self.by_epoch:
                self._remove_within_epoch(runner.message_hub.runtime_info.get('ckpt_within_epoch'))
        elif self.max_keep_ckpts > 0:
            self._keep(runner, before)

    def _remove_within_epoch(self, filename: str | None) -> None:
        if filename and self.max_keep_ckpts > 0 and is_main_process():
            self._remove(self._path(filename))

    def _keep(self, runner: Runner, steps: list[int]) -> None:
        self.keep_ckpt_ids.clear()
        self.keep_ckpt_ids.extend(steps)
        runner.message_hub.update_info('keep_ckpt_ids', steps)

    def _together(self, save: Callable[[], None]) -> None:
        """Run what saves in all processes, of which rank 0 alone may write, and raise in all if it failed in one."""
        error = None
        try:
            save()
        except (InputError, OSError) as e:
            error = e
        for failure in all_gather_object(error, self._waiting_room):
            if failure is not None:
                raise failure

    def _save(self, runner: Runner, filename: str, meta: dict) -> bool:
        previous, self.last_ckpt = self.last_ckpt, self._path(filename)
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
                # The pointer lies in the work folder, which is local wherever the checkpoints go.
                AtomicFileBackend().put_text(self.last_ckpt, f'{runner.work_dir}/last_checkpoint')

        self._meta = meta
        self._unsaved = True
        try:
            self._together(save)
            self._unsaved = False
        except OSError as e:
            runner.logger.error(
                f'Checkpoint {self.last_ckpt} was not written: {e.strerror or e}. Make room for it; the newest '
                f'complete one is {previous or "none yet"}.'
            )
            return False
        except InputError as e:
            if self._weights_changed(runner):
                raise
            # Statistics of a batch whose loss is not finite: the coming step is where LossGuardHook names it.
            runner.logger.error(str(e))
            return False
        finally:
            self._meta = None
            if self._unsaved:
                self.last_ckpt = previous
                runner.message_hub.update_info('last_ckpt', previous)
        self._saved_state = (meta['epoch'], meta['iter'])
        return True

    @staticmethod
    def _weights_changed(runner: Runner) -> bool:
        """Whether the iteration ended with a step, and not in the middle of those whose gradients are summed."""
        return not isinstance(runner.optim_wrapper, OptimWrapper) or runner.optim_wrapper.should_update()

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        if not self.save_best:
            return
        # MMEngine removes the previous best before it writes the new one: it does not get to know about it.
        single = len(self.key_indicators) == 1
        previous = {None: self.best_ckpt_path} if single else dict(self.best_ckpt_path_dict)
        info = {key: value for key, value in runner.message_hub.runtime_info.items() if key.startswith('best_')}
        self._set_best(single, dict.fromkeys(previous))
        # Without it, MMEngine does not save the newest once more: that is one more save, and comes after this one.
        last_ckpt, self.last_ckpt = self.last_ckpt, None
        try:
            self._together(lambda: super(AtomicCheckpointHook, self)._save_best_checkpoint(runner, metrics))
        except OSError as e:
            runner.logger.error(f'The best checkpoint was not written: {e.strerror or e}. Make room for it.')
            self._set_best(single, previous)
            runner.message_hub.update_info_dict(info)
            for key in [key for key in runner.message_hub.runtime_info if key.startswith('best_') and key not in info]:
                runner.message_hub.pop_info(key)
            return
        finally:
            self.last_ckpt = last_ckpt
        current = {None: self.best_ckpt_path} if single else dict(self.best_ckpt_path_dict)
        updated = any(path is not None for path in current.values())
        for key, path in previous.items():
            if current.get(key) is None:
                current[key] = path
            elif path and path != current[key] and is_main_process():
                self._remove(path)
        self._set_best(single, current)
        if updated and self.last_ckpt is not None:
            # The newest has to know of the best, for a run that goes on from it to remove it.
            step = runner.epoch if self.by_epoch else runner.iter
            self._save_checkpoint_with_step(runner, step, dict(epoch=runner.epoch, iter=runner.iter))

    def _set_best(self, single: bool, paths: dict) -> None:
        if single:
            self.best_ckpt_path = paths[None]
        else:
            self.best_ckpt_path_dict = paths

    def _remove(self, path: str) -> None:
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):
            # DeepSpeed's checkpoints are folders.
            self.file_backend.rmtree(path)
