from mmdet.models.detectors import SemiBaseDetector
from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from ...cpu import prepare_for_training


@HOOKS.register_module()
class FastTrainingHook(Hook):
    """Train faster on a CPU, and with less memory on other devices, by :func:`prepare_for_training`.

    ``compile`` is its option.
    """

    # After EMAHook, which copies the model.
    priority = 'VERY_LOW'

    def __init__(self, compile: bool = False) -> None:
        self.compile = compile

    def before_train(self, runner: Runner) -> None:
        """Prepare the detector, or student and teacher."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        for detector in (model.student, model.teacher) if isinstance(model, SemiBaseDetector) else (model,):
            prepare_for_training(detector, compile=self.compile)
