from mmdet.models.detectors import SemiBaseDetector
from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from ...cpu import prepare_for_training


@HOOKS.register_module()
class FastTrainingHook(Hook):
    """Train faster on a CPU; on other devices it does nothing. See :func:`prepare_for_training`."""

    # After EMAHook, which copies the model.
    priority = 'VERY_LOW'

    def before_train(self, runner: Runner) -> None:
        """Prepare the detector, or student and teacher."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        for detector in (model.student, model.teacher) if isinstance(model, SemiBaseDetector) else (model,):
            prepare_for_training(detector)
