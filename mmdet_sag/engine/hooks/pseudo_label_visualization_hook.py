from typing import Any

import numpy as np
from mmdet.registry import HOOKS
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from ...errors import InputError


@HOOKS.register_module()
class PseudoLabelVisualizationHook(Hook):
    """Draws the pseudo-labels of a Polite Teacher: the kept boxes, and the masks that are trained on.

    The image is the strong view of the first unlabelled image of every ``interval``-th iteration, as the student sees
    it. It goes to all backends of the visualizer under the name ``pseudo_labels``. The teacher predicts once more for
    it, which does not change the training. In a distributed run, rank 0 draws.
    """

    priority = 'LOW'

    def __init__(self, interval: int = 1000) -> None:
        self.interval = interval

    def before_train(self, runner: Runner) -> None:
        """Check the model."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if not hasattr(model, 'get_pseudo_instances'):
            raise InputError(
                f'PseudoLabelVisualizationHook: {type(model).__name__} makes no pseudo-labels: '
                'remove the hook from custom_hooks'
            )

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict, *args: Any, **kwargs: Any) -> None:
        """Draw the first unlabelled image of every ``interval``-th batch."""
        if not self.every_n_train_iters(runner, self.interval) or not is_main_process():
            return
        if 'unsup_teacher' not in data_batch['inputs']:
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        view = next(view for view in data_batch['inputs']['unsup_student'] if view is not None)
        data = model.data_preprocessor(data_batch, training=True)
        sample = model.get_pseudo_instances(
            data['inputs']['unsup_teacher'][:1], data['data_samples']['unsup_teacher'][:1]
        )[0][0].cpu()
        masks = sample.gt_instances.masks.masks.copy()
        masks[~sample.gt_instances.mask_weights.bool().numpy()] = 0
        sample.gt_instances.masks = masks.astype(bool)
        sample.pred_instances = sample.gt_instances
        image = np.ascontiguousarray(view.cpu().numpy().transpose(1, 2, 0)[..., ::-1])
        runner.visualizer.add_datasample(
            'pseudo_labels', image, data_sample=sample, draw_gt=False, pred_score_thr=0.0, step=runner.iter + 1
        )
