from collections.abc import Sequence

import torch
from mmcv.ops import RoIAlign
from mmdet.models.roi_heads.roi_extractors import BaseRoIExtractor
from torch import Tensor, nn

from ..errors import InputError
from .onnx_operators import roi_align


class ExportableRoIExtractor(nn.Module):
    """What a RoI extractor computes, in operators of ONNX.

    Every RoI is taken from its level alone: the levels' RoIs are picked, pooled and put back into order, in numbers
    that are known when the model runs.

    Args:
        extractor: The extractor: :class:`mmdet.models.SingleRoIExtractor` or :class:`ScaleAdaptiveRoIExtractor`.

    Raises:
        InputError: Its RoI layer is no average RoIAlign.
    """

    def __init__(self, extractor: BaseRoIExtractor) -> None:
        super().__init__()
        for layer in extractor.roi_layers:
            if not isinstance(layer, RoIAlign) or layer.pool_mode != 'avg':
                raise InputError(f'{type(layer).__name__} of the RoI extractor cannot be exported, only RoIAlign can')
        self.extractor = extractor

    @property
    def num_inputs(self) -> int:
        """Number of levels."""
        return self.extractor.num_inputs

    def forward(
        self, feats: Sequence[Tensor], rois: Tensor, roi_scale_factor: None = None, img_areas: Tensor | None = None
    ) -> Tensor:
        """Extract the features of RoIs.

        Args:
            feats: One tensor (N, C, H, W) per level.
            rois: RoIs of shape (n, 5): image index, x1, y1, x2, y2 in pixels of the network's input.
            roi_scale_factor: Not used.
            img_areas: Area of the image of each RoI, shape (n, ), for a :class:`ScaleAdaptiveRoIExtractor`.

        Returns:
            RoI features of shape (n, C, output_size, output_size).
        """
        layers = self.extractor.roi_layers
        if len(feats) == 1:
            return self._pool(feats[0], rois, layers[0])
        levels = self.extractor.map_roi_levels(rois, len(feats) if img_areas is None else img_areas)
        places = [(levels == level).nonzero().squeeze(1) for level in range(len(feats))]
        pooled = torch.cat([self._pool(*inputs) for inputs in zip(feats, (rois[place] for place in places), layers)])
        places = torch.cat(places)
        order = torch.zeros_like(levels).scatter(0, places, torch.arange(places.shape[0], device=rois.device))
        return pooled[order]

    @staticmethod
    def _pool(feats: Tensor, rois: Tensor, layer: RoIAlign) -> Tensor:
        return roi_align(feats, rois, layer.output_size, layer.spatial_scale, layer.sampling_ratio, layer.aligned)
