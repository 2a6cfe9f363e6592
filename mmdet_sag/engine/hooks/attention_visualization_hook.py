import tempfile
from collections.abc import Sequence
from pathlib import Path

import mmcv
import numpy as np
from mmdet.registry import HOOKS
from mmdet.structures import DetDataSample
from mmengine.dist import is_main_process
from mmengine.fileio import get
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.visualization import Visualizer

from ...visualization import AttentionRecorder


@HOOKS.register_module()
class AttentionVisualizationHook(Hook):
    """Draw where a SAG mask head looks, beside what it predicts.

    The attention is that of the forward that validates or tests anyway, see :class:`AttentionRecorder`. The picture,
    predictions left and attention right, goes to all backends of the visualizer under the name ``attention``. In a
    distributed run, rank 0 draws of its share of the images.

    With test-time augmentation, the attention is that of the first view, put back into the original image.

    Args:
        interval: Every how many batches the first image is drawn.
        score_thr: Lowest score of the detections that are drawn.
        backend_args: Arguments of the file backend that reads the images.

    Raises:
        InputError: When a run starts with a model that has no SAG mask head.
    """

    priority = 'LOW'

    def __init__(self, interval: int = 50, score_thr: float = 0.3, backend_args: dict | None = None) -> None:
        self.interval = interval
        self.score_thr = score_thr
        self.backend_args = backend_args

    def before_run(self, runner: Runner) -> None:
        """Find the modules to listen to."""
        self._recorder = AttentionRecorder(runner.model)

    def before_val(self, runner: Runner) -> None:
        """Start to listen to the model."""
        if is_main_process():
            self._recorder.start()

    def after_val(self, runner: Runner) -> None:
        """Stop to listen."""
        self._recorder.stop()

    before_test = before_val
    after_test = after_val

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict = None, outputs: Sequence[DetDataSample] = None
    ) -> None:
        """Draw the first image of every ``interval``-th batch."""
        if batch_idx % self.interval == 0 and self._recorder.num_forwards:
            samples = data_batch['data_samples']
            views = [view[0] for view in samples] if isinstance(samples[0], (list, tuple)) else samples[:1]
            # A view in which nothing was found may have none: the others cannot be told apart then.
            if self._recorder.num_forwards == len(views):
                heat = self._recorder.heat(views, outputs[0], self.score_thr)
                picture = self._draw(runner.visualizer, outputs[0], heat)
                runner.visualizer.add_image('attention', picture, step=runner.iter + batch_idx)
        self._recorder.forget()

    after_test_iter = after_val_iter

    def _draw(self, visualizer: Visualizer, sample: DetDataSample, heat: np.ndarray) -> np.ndarray:
        image = mmcv.imfrombytes(get(sample.img_path, backend_args=self.backend_args), channel_order='rgb')
        with tempfile.TemporaryDirectory() as folder:
            # With a file to write to, the visualizer does not send the picture to its backends by itself.
            visualizer.add_datasample(
                'prediction',
                image,
                data_sample=sample,
                draw_gt=False,
                pred_score_thr=self.score_thr,
                out_file=str(Path(folder) / 'prediction.png'),
            )
        return np.concatenate([visualizer.get_image(), self._recorder.overlay(heat, image)], axis=1)
