import copy
from collections.abc import Sequence

import mmcv
import numpy as np
from mmdet.registry import HOOKS
from mmdet.structures import DetDataSample
from mmengine.dist import is_main_process
from mmengine.fileio import get
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.visualization import Visualizer

from ...visualization import DEFAULT_SCORE_THR, AttentionRecorder, beside


@HOOKS.register_module()
class AttentionVisualizationHook(Hook):
    """Draws the attention of a SAG mask head, which the model must have, beside its predictions, also in tests.

    No extra forward pass is needed, see :class:`AttentionRecorder`. The image (predictions left, attention right) goes
    to all backends of the visualizer under the name ``attention``. In a distributed run, rank 0 draws images of its
    share. With test-time augmentation, the attention is that of the first view, mapped to the original image.

    Args:
        interval: The first image of every ``interval``-th batch is drawn.
        score_thr: Lowest score of the drawn detections.
        backend_args: Arguments of the file backend that reads the images.
    """

    priority = 'LOW'

    def __init__(
        self, interval: int = 50, score_thr: float = DEFAULT_SCORE_THR, backend_args: dict | None = None
    ) -> None:
        self.interval = interval
        self.score_thr = score_thr
        self.backend_args = backend_args

    def before_run(self, runner: Runner) -> None:
        """Find the attention modules."""
        self._recorder = AttentionRecorder(runner.model)
        # The iteration of the training. A test has none: runner.iter would build its data set.
        self._start = 0

    def before_val(self, runner: Runner) -> None:
        """Start recording."""
        self._start = runner.iter
        self.before_test(runner)

    def before_test(self, runner: Runner) -> None:
        """Start recording."""
        if is_main_process():
            self._recorder.start()

    def after_val(self, runner: Runner) -> None:
        """Stop recording."""
        self._recorder.stop()

    after_test = after_val

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict = None, outputs: Sequence[DetDataSample] = None
    ) -> None:
        """Draw the first image of every ``interval``-th batch."""
        samples = data_batch['data_samples']
        views = [view[0] for view in samples] if isinstance(samples[0], (list, tuple)) else samples[:1]
        # A view without detections may have no forward: then views and forwards cannot be matched.
        if batch_idx % self.interval == 0 and self._recorder.num_forwards == len(views):
            heat = self._recorder.heat(views, outputs[0], self.score_thr)
            picture = self._draw(runner.visualizer, outputs[0], heat)
            runner.visualizer.add_image('attention', picture, step=self._start + batch_idx)
        self._recorder.forget()

    after_test_iter = after_val_iter

    def _draw(self, visualizer: Visualizer, sample: DetDataSample, heat: np.ndarray) -> np.ndarray:
        image = mmcv.imfrombytes(get(sample.img_path, backend_args=self.backend_args), channel_order='rgb')
        # Draws on the same figure, and sends nothing to the backends.
        quiet = copy.copy(visualizer)
        quiet.add_image = lambda *args: None
        quiet.add_datasample('prediction', image, data_sample=sample, draw_gt=False, pred_score_thr=self.score_thr)
        picture = quiet.get_image()
        return beside(picture, self._recorder.overlay(heat, image, width=picture.shape[1]))
