from mmdet.registry import HOOKS
from mmengine import hooks
from mmengine.runner import Runner


@HOOKS.register_module()
class EarlyStoppingHook(hooks.EarlyStoppingHook):
    """MMEngine's ``EarlyStoppingHook``, which a resumed run continues with its best score and its count.

    In MMDetection's scope, this class replaces MMEngine's, under the same name.
    """

    # Before the checkpoint of this validation.
    priority = 'LOW'

    def before_train(self, runner: Runner) -> None:
        """Take over the state of the resumed run."""
        state = runner.message_hub.runtime_info.get(self._key)
        if state:
            self.wait_count, self.best_score = state['wait_count'], state['best_score']
        threshold = self.stopping_threshold
        if threshold is not None and self.rule_map[self.rule](self.best_score, threshold):
            runner.train_loop.stop_training = True

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float]) -> None:
        """Decide whether to stop, and note the state for the next checkpoint."""
        super().after_val_epoch(runner, metrics)
        state = dict(wait_count=self.wait_count, best_score=float(self.best_score))
        runner.message_hub.update_info(self._key, state)

    @property
    def _key(self) -> str:
        return f'early_stopping_{self.monitor}'
