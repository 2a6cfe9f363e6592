import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import mmcv
import numpy as np
import torch
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
from mmdet.registry import HOOKS
from mmdet.structures import DetDataSample
from mmengine.dist import is_main_process
from mmengine.fileio import get
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmengine.visualization import Visualizer
from torch import Tensor, nn

from ...errors import InputError
from ...models.roi_heads import SAGMaskHead


@HOOKS.register_module()
class AttentionVisualizationHook(Hook):
    """Draw where a SAG mask head looks, beside what it predicts.

    The attention maps of the forward that validates or tests anyway are pasted into the image at their RoIs, each
    stretched to its own range, for what counts is where in an object the head looks; where RoIs overlap, the highest
    attention is shown. The picture, predictions left and attention right, goes to all backends of the visualizer under
    the name ``attention``. In a distributed run, rank 0 draws of its share of the images.

    With test-time augmentation, the attention is that of the first view, put back into the original image.

    Args:
        interval: Every how many batches the first image is drawn.
        score_thr: Lowest score of the detections that are drawn.
        backend_args: Arguments of the file backend that reads the images.

    Raises:
        InputError: When a run starts with a model that has no SAG mask head.
    """

    priority = 'LOW'

    def __init__(self, interval: int = 50, score_thr: float = 0.3, backend_args: Optional[dict] = None) -> None:
        self.interval = interval
        self.score_thr = score_thr
        self.backend_args = backend_args
        self._handles: list = []
        self._calls: list[list[Tensor]] = []

    def before_run(self, runner: Runner) -> None:
        """Find the modules to listen to."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        heads = [module for module in model.modules() if isinstance(module, SAGMaskHead)]
        extractors = [module for name, module in model.named_modules() if _is_mask_roi_extractor(name)]
        if not heads or not extractors:
            raise InputError(
                f'AttentionVisualizationHook: {type(model).__name__} has no SAGMaskHead with a mask_roi_extractor; '
                "set mask_head.type to 'SAGMaskHead' or remove the hook"
            )
        # The last stage of a cascade is the one whose masks are seen.
        self._extractor, self._gate = extractors[-1], heads[-1].spatial_attention.gate

    def before_val(self, runner: Runner) -> None:
        """Start to listen to the model."""
        if is_main_process():
            self._handles = [
                self._extractor.register_forward_hook(self._keep_rois),
                self._gate.register_forward_hook(self._keep_attention),
            ]

    def after_val(self, runner: Runner) -> None:
        """Stop to listen."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._calls = []

    before_test = before_val
    after_test = after_val

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict = None, outputs: Sequence[DetDataSample] = None
    ) -> None:
        """Draw the first image of every ``interval``-th batch."""
        if batch_idx % self.interval == 0 and self._calls:
            samples = data_batch['data_samples']
            views = samples if isinstance(samples[0], (list, tuple)) else [samples]
            # A view in which nothing was found may have none: the others cannot be told apart then.
            if len(self._calls) == len(views):
                rois, attention = self._calls[0]
                heat = self._paste(rois, attention, views[0][0], outputs[0])
                picture = self._draw(runner.visualizer, outputs[0], heat)
                runner.visualizer.add_image('attention', picture, step=runner.iter + batch_idx)
        self._calls = []

    after_test_iter = after_val_iter

    def _keep_rois(self, module: nn.Module, inputs: tuple, output: Tensor) -> None:
        self._calls.append([inputs[1]])

    def _keep_attention(self, module: nn.Module, inputs: tuple, output: Tensor) -> None:
        self._calls[-1].append(output)

    @torch.no_grad()
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
        prediction = visualizer.get_image()
        attention = visualizer.draw_featmap(
            torch.from_numpy(heat)[None], image, channel_reduction='squeeze_mean', alpha=0.4
        )
        return np.concatenate([prediction, attention], axis=1)

    def _paste(self, rois: Tensor, attention: Tensor, view: DetDataSample, sample: DetDataSample) -> np.ndarray:
        """Attention of the drawn detections at their places in the original image, (H, W)."""
        height, width = sample.ori_shape
        # RoIs are in the order of their scores.
        drawn = int((sample.pred_instances.scores >= self.score_thr).sum())
        mine = (rois[:, 0] == 0).nonzero().squeeze(1)[:drawn]
        if len(mine) == 0:
            return np.zeros((height, width), dtype=np.float32)
        boxes = rois[mine, 1:].float() / rois.new_tensor(view.scale_factor * 2)
        attention = attention[mine].float()
        lowest, highest = attention.amin(dim=(1, 2, 3), keepdim=True), attention.amax(dim=(1, 2, 3), keepdim=True)
        attention = (attention - lowest) / (highest - lowest).clamp(min=1e-6)
        maps, _ = _do_paste_mask(attention, boxes, height, width, skip_empty=False)
        heat = maps.amax(dim=0).cpu().numpy()
        return mmcv.imflip(heat, view.flip_direction).copy() if view.get('flip') else heat


def _is_mask_roi_extractor(name: str) -> bool:
    parts = name.split('.')
    return parts[-1] == 'mask_roi_extractor' or (parts[-1].isdigit() and parts[-2:-1] == ['mask_roi_extractor'])
