import torch
from mmdet.models.dense_heads import CenterNetHead
from mmdet.models.utils import get_local_maximum
from mmdet.registry import MODELS
from mmdet.utils import ConfigType, InstanceList, OptInstanceList
from torch import Tensor

from ...structures.inclusive_boxes import not_empty
from .point_mask_mixin import PointDetections, PointMaskMixin, take_cells


@MODELS.register_module()
class PointCenterMaskHead(PointMaskMixin, CenterNetHead):
    """CenterNet's head with a mask from the centre of each object.

    :class:`PointMaskMixin` describes the masks.

    Source: `CenterMask: Single Shot Instance Segmentation with Point Representation
    <https://arxiv.org/abs/2004.04446>`_.

    Args:
        in_channels: Channels of the feature map.
        feat_channels: Channels of the hidden layer of each branch.
        num_classes: Number of classes.
        shape_size: Side of the local shape; 0: no shape branch, masks come from the saliency alone.
        saliency: ``'class-agnostic'``: one saliency map for all classes; ``'class-specific'``: one for each; None: no
            saliency branch, masks come from the shape alone.
        mask_size: Points of a mask along each side of its box.
        stride: Pixels of the network's input in one of the map.
        level: Which of several feature maps is used; by default the last, as of a stacked hourglass.
        loss_mask: Config of the loss of the assembled masks' logits.
        **kwargs: As in ``CenterNetHead``. ``test_cfg`` has ``max_per_img``, the number of peaks,
            ``local_maximum_kernel`` and, optionally, ``score_thr``, the score that detections exceed (0), and
            ``mask_thr_binary``, the lowest probability of a mask's pixels (0.5).

    Raises:
        InputError: There is neither of the two branches, or ``saliency`` is another word.
    """

    def __init__(
        self,
        in_channels: int,
        feat_channels: int,
        num_classes: int,
        shape_size: int = 32,
        saliency: str | None = 'class-agnostic',
        mask_size: int = 64,
        stride: int = 4,
        level: int = -1,
        loss_mask: ConfigType = dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0),
        **kwargs,
    ) -> None:
        super().__init__(in_channels, feat_channels, num_classes, **kwargs)
        self.stride = stride
        self.level = level
        self.add_mask_branches(in_channels, feat_channels, num_classes, shape_size, saliency, mask_size, loss_mask)

    def forward(self, x: tuple[Tensor, ...]) -> tuple[list, ...]:
        """Compute the maps of one of the feature maps.

        Returns:
            Lists of one: heatmap (N, num_classes, H, W), width and height (N, 2, H, W), offset (N, 2, H, W), hidden
            features of the shape branch (N, feat_channels, H, W) or None, and saliency (N, 1 or num_classes, H, W) or
            None.
        """
        return super().forward([x[self.level]])

    def forward_single(self, x: Tensor) -> tuple[Tensor | None, ...]:
        """The maps of :meth:`forward` of one feature map."""
        masks = self.shape_features(x), self.saliency_map(x)
        return *super().forward_single(x), *masks

    def find_peaks(self, heatmap: Tensor, wh: Tensor, offset: Tensor) -> PointDetections:
        """Find the best ``test_cfg.max_per_img`` objects of each image, by max pooling in place of NMS.

        Args:
            heatmap: Scores of shape (N, num_classes, H, W).
            wh: Widths and heights of shape (N, 2, H, W), in pixels of the map.
            offset: What rounding took from the centres, shape (N, 2, H, W), in pixels of the map.
        """
        height, width = heatmap.shape[2:]
        count = self.test_cfg.max_per_img
        # In float32, as the places of what is predicted in half precision have to be.
        peaks = get_local_maximum(heatmap.float(), self.test_cfg.get('local_maximum_kernel', 3)).flatten(1)
        # A small map has fewer locations.
        scores, index = torch.cat([peaks, peaks.new_zeros(1, count).expand(peaks.shape[0], -1)], dim=1).topk(count)
        index = index * (scores > 0)
        label = index.div(height * width, rounding_mode='floor')
        cells = index - label * (height * width)
        row = cells.div(width, rounding_mode='floor')
        centres = torch.stack([cells - row * width, row], dim=1) + take_cells(offset.float(), cells)
        half = take_cells(wh.float(), cells) / 2
        boxes = torch.cat([centres - half, centres + half], dim=1).transpose(1, 2) * self.stride
        return PointDetections(boxes, scores, label, cells)

    def detected(self, scores: Tensor, boxes: Tensor) -> Tensor:
        """As in :class:`PointMaskMixin`, with ``test_cfg.score_thr``."""
        return super().detected(scores, boxes) & (scores > self.test_cfg.get('score_thr', 0))

    def loss_by_feat(
        self,
        heatmaps: list[Tensor],
        whs: list[Tensor],
        offsets: list[Tensor],
        shapes: list[Tensor | None],
        saliencies: list[Tensor | None],
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: OptInstanceList = None,
    ) -> dict:
        """Compute the losses of ``CenterNetHead`` and ``loss_mask``, the mean over the points of the objects' boxes.

        Arguments are what :meth:`forward` returns, and those of ``CenterNetHead``: ground truth with ``masks``, and
        meta information with ``batch_input_shape``. ``batch_gt_instances_ignore`` is not used.
        """
        self.check_stride(heatmaps[0], batch_img_metas)
        # What a crop left no pixel of may lie on the image's last border, which is outside of the map.
        batch_gt_instances = [gt[not_empty(gt.bboxes)] for gt in batch_gt_instances]
        losses = super().loss_by_feat(heatmaps, whs, offsets, batch_gt_instances, batch_img_metas)
        # As CenterNet's targets.
        centres = [(gt.bboxes[:, :2] + gt.bboxes[:, 2:]) / 2 / self.stride for gt in batch_gt_instances]
        cells = [row * heatmaps[0].shape[3] + column for column, row in (part.long().unbind(1) for part in centres)]
        objects = [torch.arange(len(part), device=part.device) for part in cells]
        losses['loss_mask'] = self.mask_losses(shapes[0], saliencies[0], batch_gt_instances, cells, objects)
        return losses

    def predict_by_feat(
        self,
        heatmaps: list[Tensor],
        whs: list[Tensor],
        offsets: list[Tensor],
        shapes: list[Tensor | None],
        saliencies: list[Tensor | None],
        batch_img_metas: list[dict],
        rescale: bool = True,
    ) -> InstanceList:
        """Find objects and their masks in what :meth:`forward` returns.

        Other arguments and results are those of :meth:`predict_masks`; images also have ``batch_input_shape``.
        """
        self.check_stride(heatmaps[0], batch_img_metas)
        peaks = self.find_peaks(heatmaps[0], whs[0], offsets[0])
        return self.predict_masks(peaks, shapes[0], saliencies[0], batch_img_metas, rescale)
