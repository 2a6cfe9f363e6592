import logging

from mmdet.models.detectors import SingleStageDetector, TwoStageDetector
from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from ...cpu import give_back, prepare_for_inference


@HOOKS.register_module()
class FastInferenceHook(Hook):
    """Test with a detector that is prepared by :func:`prepare_for_inference`, whose options are the arguments."""

    # After EMAHook, which puts its weights in before an epoch.
    priority = 'VERY_LOW'

    def __init__(
        self, fuse_conv_bn: bool = True, channels_last: bool = True, winograd: bool = True, compile: bool = False
    ) -> None:
        self.options = dict(fuse_conv_bn=fuse_conv_bn, channels_last=channels_last, winograd=winograd, compile=compile)

    def before_test_epoch(self, runner: Runner) -> None:
        """Prepare the model, whose weights are loaded by now."""
        detector = self._detector(runner)
        extract_feat = getattr(type(detector), 'extract_feat', None)
        if extract_feat not in (SingleStageDetector.extract_feat, TwoStageDetector.extract_feat):
            print_log(
                f'{type(detector).__name__} extracts its features in its own way and is tested as it is',
                logger='current',
                level=logging.WARNING,
            )
        elif any(self.options.values()):
            prepare_for_inference(detector, **self.options)

    def after_test_epoch(self, runner: Runner, metrics=None) -> None:
        """Undo the preparation."""
        give_back(self._detector(runner))

    @staticmethod
    def _detector(runner: Runner):
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        # Test-time augmentation wraps the detector.
        return getattr(model, 'module', model)
