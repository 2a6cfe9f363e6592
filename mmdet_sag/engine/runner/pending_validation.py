"""Validation that was due when a run stopped."""

from mmengine.hooks import Hook
from mmengine.runner import Runner

_KEY = 'validated_at'


def note_validation(runner: Runner) -> None:
    """Write down, for the checkpoints from now on, that the state of this iteration is validated."""
    runner.message_hub.update_info(_KEY, runner.iter)


def validate_before_training(runner: Runner) -> None:
    """Validate first if the resumed state was due for it.

    A checkpoint is written before the validation of its iteration, so a run that stopped in between has not done it. To
    a run that was validated and stopped later, it happens again: the checkpoint holds the state before it.
    """
    if runner.message_hub.runtime_info.get(_KEY) != runner.iter:
        # After all other hooks are ready.
        runner.register_hook(_ValidateFirst(), priority='LOWEST')


class _ValidateFirst(Hook):
    def before_train(self, runner: Runner) -> None:
        runner.logger.info(
            f'The validation after iteration {runner.iter} was due when the run stopped: it comes first.'
        )
        note_validation(runner)
        runner.val_loop.run()
