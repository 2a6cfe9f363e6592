import re
from collections.abc import Sequence

import cv2
import mmcv
import numpy as np
import torch
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
from mmdet.structures import DetDataSample
from mmengine.model import is_model_wrapper
from mmengine.visualization import Visualizer
from torch import Tensor, nn

from ..errors import InputError
from ..models.roi_heads import SAGMaskHead


class AttentionRecorder:
    """Records the attention of a SAG mask head during the model's forwards.

    The attention maps are pasted into the image at their RoIs, each scaled to [0, 1]. Where RoIs overlap, the highest
    attention is shown.

    Raises:
        InputError: The model has no SAG mask head.
    """

    def __init__(self, model: nn.Module) -> None:
        model = model.module if is_model_wrapper(model) else model
        heads = [module for module in model.modules() if isinstance(module, SAGMaskHead)]
        # One, or in a cascade a list.
        is_extractor = re.compile(r'(.*\.)?mask_roi_extractor(\.\d+)?').fullmatch
        extractors = [module for name, module in model.named_modules() if is_extractor(name)]
        if not heads or not extractors:
            raise InputError(
                f'{type(model).__name__} has no SAGMaskHead with a mask_roi_extractor, whose attention could be drawn; '
                "set mask_head.type to 'SAGMaskHead'"
            )
        # The last stage of a cascade predicts the masks.
        self._extractor, self._gate = extractors[-1], heads[-1].spatial_attention.gate
        self._handles: list = []
        self._calls: list[list[Tensor]] = []

    def start(self) -> None:
        """Start recording."""
        self._handles = [
            self._extractor.register_forward_hook(self._keep_rois),
            self._gate.register_forward_hook(self._keep_attention),
        ]

    def stop(self) -> None:
        """Stop recording, and delete the records."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.forget()

    def forget(self) -> None:
        """Delete the records; to be called after each batch."""
        self._calls = []

    def __enter__(self) -> 'AttentionRecorder':
        self.start()
        return self

    def __exit__(self, *args) -> None:
        self.stop()

    @property
    def num_forwards(self) -> int:
        """Forwards of the mask head since :meth:`forget`."""
        return len(self._calls)

    @property
    def last(self) -> tuple[Tensor, Tensor] | None:
        """RoIs and attention maps for :func:`paste_attention`, if there was one forward since :meth:`forget`."""
        return tuple(self._calls[0]) if len(self._calls) == 1 else None

    def heat(self, views: Sequence[DetDataSample], sample: DetDataSample, score_thr: float) -> np.ndarray:
        """Return the attention of an image's detections that score ``score_thr`` or more.

        ``views`` are the inputs of the model: one sample, or those of test-time augmentation, the first of which is
        drawn.

        Returns:
            Attention in [0, 1], shape (H, W) of the original image; zero without a detection.
        """
        # Views without detections may have no forward, and then the forwards cannot be assigned.
        if len(self._calls) != len(views):
            return np.zeros(sample.ori_shape, dtype=np.float32)
        return paste_attention(*self._calls[0], views[0], sample, score_thr)

    @staticmethod
    def overlay(heat: np.ndarray, image: np.ndarray, width: int | None = None) -> np.ndarray:
        """Draw the result of :meth:`heat` over an image, RGB, (H, W, 3), enlarged to ``width`` pixels."""
        if width is not None:
            size = (width, round(width * heat.shape[0] / heat.shape[1]))
            heat, image = cv2.resize(heat, size), cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
        return Visualizer.draw_featmap(torch.from_numpy(heat)[None], image, channel_reduction='squeeze_mean', alpha=0.4)

    def _keep_rois(self, module: nn.Module, inputs: tuple, output: Tensor) -> None:
        self._calls.append([inputs[1]])

    def _keep_attention(self, module: nn.Module, inputs: tuple, output: Tensor) -> None:
        self._calls[-1].append(output)


@torch.no_grad()
def paste_attention(
    rois: Tensor, attention: Tensor, view: DetDataSample, sample: DetDataSample, score_thr: float
) -> np.ndarray:
    """Paste the attention maps (n, 1, H', W') of a batch's first image into that image, as in [0, 1], (H, W).

    ``rois`` (n, 5) begin with the index of the image in the batch. ``view`` is the input sample of the image,
    ``sample`` the prediction, of which detections that score ``score_thr`` or more are drawn.
    """
    height, width = sample.ori_shape
    # RoIs are sorted by score.
    drawn = int((sample.pred_instances.scores >= score_thr).sum())
    mine = (rois[:, 0] == 0).nonzero().squeeze(1)[:drawn]
    if len(mine) == 0:
        return np.zeros((height, width), dtype=np.float32)
    boxes = rois[mine, 1:].float() / rois.new_tensor(view.get('scale_factor', (1.0, 1.0)) * 2)
    attention = attention[mine].float()
    lowest, highest = attention.amin(dim=(1, 2, 3), keepdim=True), attention.amax(dim=(1, 2, 3), keepdim=True)
    attention = (attention - lowest) / (highest - lowest).clamp(min=1e-6)
    maps, _ = _do_paste_mask(attention, boxes, height, width, skip_empty=False)
    heat = maps.amax(dim=0).cpu().numpy()
    return mmcv.imflip(heat, view.flip_direction).copy() if view.get('flip') else heat
