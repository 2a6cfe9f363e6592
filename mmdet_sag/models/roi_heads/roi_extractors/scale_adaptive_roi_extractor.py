from collections.abc import Sequence

import torch
from mmcv.ops import RoIAlign
from mmdet.models.roi_heads.roi_extractors import BaseRoIExtractor
from mmdet.registry import MODELS
from mmdet.utils import ConfigType, OptMultiConfig
from torch import Tensor, nn

from ...layers.group_selection import filled
from .embedding_bag_roi_align import embedding_bag_roi_align


@MODELS.register_module()
class ScaleAdaptiveRoIExtractor(BaseRoIExtractor):
    r"""RoI extractor that assigns RoIs to FPN levels by their share of the image.

    .. math:: k = \lceil k_{max} - \log_2 (A_{image} / A_{RoI}) \rceil

    clamped to the levels at hand. The areas are those of the unpadded image and of the RoI, in pixels of the network's
    input. Source: `CenterMask <https://arxiv.org/abs/1911.06667>`_, Eq. 2.

    Args:
        roi_layer: Config of the RoI layer, e.g. ``dict(type='RoIAlign', output_size=14, sampling_ratio=0)``.
        out_channels: Channels of the FPN levels.
        featmap_strides: Strides of the FPN levels, ascending; the last is level :math:`k_{max}`.
        inclusive_boxes: As in :class:`CenterMask`, which sets it.
        eps: Added to the ratio of the areas.
        init_cfg: Initialization config.
    """

    def __init__(
        self,
        roi_layer: ConfigType,
        out_channels: int,
        featmap_strides: list[int],
        inclusive_boxes: bool = False,
        eps: float = 0.0,
        init_cfg: OptMultiConfig = None,
    ) -> None:
        super().__init__(roi_layer, out_channels, featmap_strides, init_cfg=init_cfg)
        self.inclusive_boxes = inclusive_boxes
        self.eps = eps

    def map_roi_levels(self, rois: Tensor, img_areas: Tensor) -> Tensor:
        """Return the index (n, ) of each RoI's level, 0 for the finest (Eq. 2).

        RoIs (n, 5) are image index, x1, y1, x2, y2; ``img_areas`` (n, ) are the areas of their images, without padding,
        in square pixels.
        """
        extent = int(self.inclusive_boxes)
        roi_areas = (rois[:, 3] - rois[:, 1] + extent) * (rois[:, 4] - rois[:, 2] + extent)
        last = self.num_inputs - 1
        return torch.ceil(last - torch.log2(img_areas / roi_areas + self.eps)).clamp(min=0, max=last).long()

    def forward(
        self,
        feats: Sequence[Tensor],
        rois: Tensor,
        roi_scale_factor: float | None = None,
        img_shapes: Sequence[tuple[int, int]] | None = None,
    ) -> Tensor:
        """Extract the features (n, C, output_size, output_size) of RoIs.

        Args:
            feats: One tensor (N, C, H, W) per level.
            rois: RoIs of shape (n, 5): image index, x1, y1, x2, y2 in pixels of the network's input.
            roi_scale_factor: Factor by which RoIs are enlarged after they have got their levels.
            img_shapes: (height, width) of each image without padding. The padded size if not given.
        """
        if img_shapes is None:
            height, width = (side * self.featmap_strides[0] for side in feats[0].shape[-2:])
            img_shapes = [(height, width)] * feats[0].shape[0]
        (img_areas,) = filled(rois, [[shape[0] * shape[1] for shape in img_shapes]])
        levels = self.map_roi_levels(rois, img_areas[rois[:, 0].long()])
        if roi_scale_factor is not None:
            rois = self.roi_rescale(rois, roi_scale_factor)

        roi_feats = feats[0].new_zeros(len(rois), self.out_channels, *self.roi_layers[0].output_size)
        if feats[0].is_contiguous(memory_format=torch.channels_last):
            roi_feats = roi_feats.contiguous(memory_format=torch.channels_last)
        counts = (levels[:, None] == torch.arange(self.num_inputs, device=levels.device)).sum(0).tolist()
        for inds, feat, roi_layer in zip(levels.argsort(stable=True).split(counts), feats, self.roi_layers):
            if len(inds) > 0:
                # In float32: half precision has whole pixels at best beyond 1024, and mmcv has no bfloat16 RoIAlign.
                roi_feats[inds] = self.roi_align(roi_layer, feat.float(), rois[inds]).to(feat.dtype)
            elif torch.is_grad_enabled():
                # Every process of a distributed job must see the same graph, with or without RoIs on a level. The sum
                # of nothing is 0 in any precision; that of a level overflows in half, and infinity times 0 is NaN.
                roi_feats = roi_feats + feat[:0].sum()
        return roi_feats

    def roi_align(self, roi_layer: nn.Module, feat: Tensor, rois: Tensor) -> Tensor:
        """Pool the features (N, C, H, W) of a level in RoIs (n, 5)."""
        averages = isinstance(roi_layer, RoIAlign) and roi_layer.pool_mode == 'avg'
        if averages and feat.device.type != 'cpu' and torch.are_deterministic_algorithms_enabled():
            # The gradient of the layer's kernel adds in any order.
            return embedding_bag_roi_align(roi_layer, feat, rois)
        # mmcv's kernels read any features as if they were contiguous.
        return roi_layer(feat.contiguous(), rois)
