from mmdet.registry import HOOKS
from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from ...errors import InputError
from ...fileio import WholeFileBackend


@HOOKS.register_module()
class WholeCheckpointHook(CheckpointHook):
    """Saves checkpoints as MMEngine's ``CheckpointHook`` does, each whole or not at all.

    - A file gets its name when it is complete and on the disk (:class:`WholeFileBackend`), ``last_checkpoint`` is
      changed after that, and only then are outdated checkpoints and the previous best one removed.
    - If a checkpoint cannot be written (a full disk), training goes on with an error in the log and the older
      checkpoints stay. It fails at its end if the last state could not be saved.

    Other than local folders are written as MMEngine writes them. All arguments are those of ``CheckpointHook``.
    """

    _unsaved = False
    _saved_state = None

    @classmethod
    def of(cls, runner: Runner) -> 'WholeCheckpointHook':
        """The hook that saves a runner's checkpoints.

        Raises:
            InputError: The runner has another one.
        """
        for hook in runner.hooks:
            if isinstance(hook, cls):
                return hook
        raise InputError(
            "set default_hooks.checkpoint.type='WholeCheckpointHook': other hooks save checkpoints through it"
        )

    def before_train(self, runner: Runner) -> None:
        """Prepare the output folder."""
        super().before_train(runner)
        if isinstance(self.file_backend, LocalBackend):
            self.backend_args = dict(backend='whole_file')
            self.file_backend = get_file_backend(self.out_dir, backend_args=self.backend_args)

    def after_train(self, runner: Runner) -> None:
        """Publish the checkpoint if the config says so.

        Raises:
            InputError: The last checkpoint could not be written.
        """
        if self._unsaved:
            raise InputError(
                f'the last checkpoint could not be written to {self.out_dir}: make room and train again with --resume, '
                f'from {self.last_ckpt or "the beginning"}'
            )
        super().after_train(runner)

    def save_now(self, runner: Runner, epoch: int, iteration: int) -> str:
        """Save a checkpoint outside of the interval, as ``iter_<iteration>.pth``.

        Args:
            runner: The runner of the training process.
            epoch: Number of finished epochs.
            iteration: Number of finished iterations.

        Returns:
            Path of the newest checkpoint: this one, or an older one if this could not be written.
        """
        if self._saved_state != (epoch, iteration):
            meta = dict(epoch=epoch, iter=iteration)
            if self.by_epoch:
                self._save(runner, f'iter_{iteration}.pth', meta)
            else:
                self._save_checkpoint_with_step(runner, iteration, meta)
        return self.last_ckpt

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
        elif self.max_keep_ckpts > 0:
            self._keep(runner, before)

    def _keep(self, runner: Runner, steps: list[int]) -> None:
        self.keep_ckpt_ids.clear()
        self.keep_ckpt_ids.extend(steps)
        runner.message_hub.update_info('keep_ckpt_ids', steps)

    def _save(self, runner: Runner, filename: str, meta: dict) -> bool:
        previous, self.last_ckpt = self.last_ckpt, self._path(filename)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        try:
            runner.save_checkpoint(
                self.out_dir,
                filename,
                self.file_client_args,
                save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler,
                meta=meta,
                by_epoch=self.by_epoch,
                backend_args=self.backend_args,
                **self.args,
            )
            if is_main_process():
                # The pointer lies in the work folder, which is local wherever the checkpoints go.
                WholeFileBackend().put_text(self.last_ckpt, f'{runner.work_dir}/last_checkpoint')
        except OSError as e:
            runner.logger.error(
                f'Checkpoint {self.last_ckpt} was not written: {e.strerror or e}. Make room for it; the newest whole '
                f'one is {previous or "none yet"}.'
            )
            self.last_ckpt = previous
            runner.message_hub.update_info('last_ckpt', previous)
            self._unsaved = True
            return False
        self._unsaved = False
        self._saved_state = (meta['epoch'], meta['iter'])
        return True

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        if not self.save_best:
            return
        # MMEngine removes the previous best before it writes the new one: it does not get to know about it.
        single = len(self.key_indicators) == 1
        previous = {None: self.best_ckpt_path} if single else dict(self.best_ckpt_path_dict)
        info = {key: value for key, value in runner.message_hub.runtime_info.items() if key.startswith('best_')}
        self._set_best(single, dict.fromkeys(previous))
        try:
            super()._save_best_checkpoint(runner, metrics)
        except OSError as e:
            runner.logger.error(f'The best checkpoint was not written: {e.strerror or e}. Make room for it.')
            self._set_best(single, previous)
            runner.message_hub.update_info_dict(info)
            for key in [key for key in runner.message_hub.runtime_info if key.startswith('best_') and key not in info]:
                runner.message_hub.pop_info(key)
            return
        current = {None: self.best_ckpt_path} if single else dict(self.best_ckpt_path_dict)
        for key, path in previous.items():
            if current.get(key) is None:
                current[key] = path
            elif path and path != current[key] and is_main_process():
                self._remove(path)
        self._set_best(single, current)

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
