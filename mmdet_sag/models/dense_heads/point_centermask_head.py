from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from mmdet.models.dense_heads import CenterNetHead
from mmdet.models.utils import get_local_maximum
from mmdet.registry import MODELS
from mmdet.utils import ConfigType, InstanceList, OptInstanceList
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ...errors import InputError
from ...structures.inclusive_boxes import clip_boxes, not_empty
from ...structures.mask import paste_masks_of_images
from ..layers.group_selection import filled


class Peaks(NamedTuple):
    """The best local maxima of each image's heatmap, by descending score; a score of 0 fills the list.

    Attributes:
        boxes: x1, y1, x2, y2 in pixels of the network's input, not clipped, shape (N, K, 4).
        scores: Scores of shape (N, K).
        labels: Classes of shape (N, K).
        cells: Locations on the map, row * width + column, shape (N, K).
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    cells: Tensor


@MODELS.register_module()
class PointCenterMaskHead(CenterNetHead):
    """CenterNet's head with a mask from the centre of each object.

    At the centre, a vector of ``shape_size ** 2`` logits is the local shape, which is resized to the box. A global
    saliency map of the whole image is cropped at the box. The mask is the product of their sigmoids.

    The last layer of the shape branch runs at the centres only, which gives the same numbers as running it everywhere.
    Masks are assembled on ``mask_size ** 2`` points of each box, in training as in testing.

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
        saliency_channels = {None: 0, 'class-agnostic': 1, 'class-specific': num_classes}
        if saliency not in saliency_channels:
            raise InputError(f"bbox_head.saliency is {saliency!r}: set 'class-agnostic', 'class-specific' or None")
        if not shape_size and saliency is None:
            raise InputError('bbox_head has no shape and no saliency to make masks of: set shape_size or saliency')
        self.mask_size = mask_size
        self.stride = stride
        self.level = level
        self.shape_size = shape_size
        self.shape_head: nn.Sequential | None = None
        if shape_size:
            self.shape_head = self._build_head(in_channels, feat_channels, shape_size**2)
        self.saliency_head: nn.Sequential | None = None
        if saliency is not None:
            self.saliency_head = self._build_head(in_channels, feat_channels, saliency_channels[saliency])
        self.loss_mask = MODELS.build(loss_mask)

    def forward(self, x: tuple[Tensor, ...]) -> tuple[list, ...]:
        """Compute the maps of one feature map.

        Args:
            x: Feature maps.

        Returns:
            Lists of one: heatmap (N, num_classes, H, W), width and height (N, 2, H, W), offset (N, 2, H, W), hidden
            features of the shape branch (N, feat_channels, H, W) or None, and saliency (N, 1 or num_classes, H, W) or
            None.
        """
        return super().forward([x[self.level]])

    def forward_single(self, x: Tensor) -> tuple[Tensor | None, ...]:
        """The maps of :meth:`forward` of one feature map."""
        shape = None if self.shape_head is None else self.shape_head[1](self.shape_head[0](x))
        saliency = None if self.saliency_head is None else self.saliency_head(x)
        return *super().forward_single(x), shape, saliency

    def find_peaks(self, heatmap: Tensor, wh: Tensor, offset: Tensor) -> Peaks:
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
        centres = torch.stack([cells - row * width, row], dim=1) + _at(offset.float(), cells)
        half = _at(wh.float(), cells) / 2
        boxes = torch.cat([centres - half, centres + half], dim=1).transpose(1, 2) * self.stride
        return Peaks(boxes, scores, label, cells)

    def detected(self, scores: Tensor, boxes: Tensor) -> Tensor:
        """Whether peaks with scores (N, K) and boxes (N, K, 4), clipped to the image, are detections, shape (N, K)."""
        return (scores > self.test_cfg.get('score_thr', 0)) & not_empty(boxes)

    def mask_logits(
        self, shape: Tensor | None, saliency: Tensor | None, boxes: Tensor, labels: Tensor, cells: Tensor
    ) -> list[Tensor]:
        """Shape and saliency of objects, on the points of their boxes.

        Args:
            shape: Hidden features of the shape branch, shape (N, C, H, W), or None.
            saliency: Saliency of shape (N, 1 or num_classes, H, W), or None.
            boxes: x1, y1, x2, y2 in pixels of the network's input, shape (N, K, 4).
            labels: Classes of shape (N, K).
            cells: Locations of the centres on the map, as in :class:`Peaks`, shape (N, K).

        Returns:
            Logits of those of the two that there are, each (N, K, mask_size, mask_size).
        """
        size, logits = self.mask_size, []
        if shape is not None and self.shape_head is not None:
            templates = self.shape_head[2](_at(shape, cells)[..., None])[..., 0].transpose(1, 2).float()
            templates = templates.unflatten(2, (self.shape_size, self.shape_size))
            logits.append(F.interpolate(templates, (size, size), mode='bilinear', align_corners=False))
        if saliency is not None and self.saliency_head is not None:
            height, width = saliency.shape[2:]
            # Middles of the points, as shares of the box.
            points = (torch.arange(size, device=boxes.device, dtype=boxes.dtype) + 0.5) / size
            x1, y1, x2, y2 = boxes.unsqueeze(3).unbind(2)
            x = (x1 + (x2 - x1) * points) * (2 / self.stride) / width - 1
            y = (y1 + (y2 - y1) * points) * (2 / self.stride) / height - 1
            x, y = x[:, :, None].expand(-1, -1, size, -1), y[..., None].expand(-1, -1, -1, size)
            maps = saliency.float()
            if saliency.shape[1] > 1:
                index = labels[..., None, None].expand(-1, -1, height, width)
                maps = maps.gather(1, index).flatten(0, 1)[:, None]
            grid = torch.stack([x, y], dim=-1).reshape(maps.shape[0], -1, size, 2)
            crops = F.grid_sample(maps, grid, padding_mode='border', align_corners=False)
            logits.append(crops.view(*labels.shape, size, size))
        return logits

    def mask_probs(self, *args) -> Tensor:
        """Mask probabilities (N, K, mask_size, mask_size); arguments are those of :meth:`mask_logits`."""
        first, *others = (logits.sigmoid() for logits in self.mask_logits(*args))
        return first * others[0] if others else first

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
        """Compute the losses.

        Args:
            heatmaps: As :meth:`forward` returns it, as the next four.
            whs: See above.
            offsets: See above.
            shapes: See above.
            saliencies: See above.
            batch_gt_instances: Ground truth of each image, with ``masks``.
            batch_img_metas: ``batch_input_shape`` of each image.
            batch_gt_instances_ignore: Not used.

        Returns:
            ``loss_center_heatmap``, ``loss_wh``, ``loss_offset`` and ``loss_mask``, the mean over the points of the
            objects' boxes.
        """
        self._check_stride(heatmaps[0], batch_img_metas)
        losses = super().loss_by_feat(heatmaps, whs, offsets, batch_gt_instances, batch_img_metas)
        width = heatmaps[0].shape[3]
        preds, targets = [], []
        for i, gt_instances in enumerate(batch_gt_instances):
            boxes = gt_instances.bboxes
            if not len(boxes):
                continue
            # As CenterNet's targets.
            column, row = ((boxes[:, :2] + boxes[:, 2:]) / 2 / self.stride).long().unbind(1)
            shape, saliency = (None if maps[0] is None else maps[0][i : i + 1] for maps in (shapes, saliencies))
            cells = row * width + column
            logits = self.mask_logits(shape, saliency, boxes[None], gt_instances.labels[None], cells[None])
            preds.append(_product(logits)[0])
            masks = gt_instances.masks.crop_and_resize(
                boxes.cpu().numpy(), (self.mask_size, self.mask_size), np.arange(len(boxes))
            )
            targets.append(torch.from_numpy(masks.to_ndarray()).to(boxes))
        if targets:
            losses['loss_mask'] = self.loss_mask(torch.cat(preds), torch.cat(targets))
        else:
            # On several GPUs, all parameters have to take part in each step.
            branches = [branch for branch in (self.shape_head, self.saliency_head) if branch is not None]
            losses['loss_mask'] = 0 * sum(value.sum() for branch in branches for value in branch.parameters())
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
        """Find objects and their masks.

        Args:
            heatmaps: As :meth:`forward` returns it, as the next four.
            whs: See above.
            offsets: See above.
            shapes: See above.
            saliencies: See above.
            batch_img_metas: ``ori_shape``, ``img_shape`` and ``batch_input_shape`` of each image, ``scale_factor`` if
                it was resized, and ``border`` (top, bottom, left, right) if it lies inside of ``img_shape``.
            rescale: Whether boxes and masks are returned at the original image's size.

        Returns:
            Of each image, ``bboxes`` (n, 4), clipped to the image, ``scores`` (n, ), ``labels`` (n, ) and ``masks``
            (n, H, W), :class:`RLEMasks`.
        """
        self._check_stride(heatmaps[0], batch_img_metas)
        peaks = self.find_peaks(heatmaps[0], whs[0], offsets[0])
        top, bottom, left, right = filled(peaks.boxes, list(map(_border, batch_img_metas)))[:, None].unbind(2)
        shift, image_sizes = torch.stack([left, top] * 2, dim=2), torch.stack([bottom - top, right - left], dim=2)
        boxes = clip_boxes(peaks.boxes - shift, image_sizes)
        probs = self.mask_probs(shapes[0], saliencies[0], boxes + shift, peaks.labels, peaks.cells)
        chosen = self.detected(peaks.scores, boxes)
        results_list = [
            InstanceData(bboxes=boxes[i, kept], scores=peaks.scores[i, kept], labels=peaks.labels[i, kept])
            for i, kept in enumerate(chosen)
        ]
        mask_probs = [probs[i, kept][:, None] for i, kept in enumerate(chosen)]
        return self.paste_masks(mask_probs, results_list, batch_img_metas, rescale=rescale, activate_map=True)

    def paste_masks(
        self,
        mask_probs: list[Tensor],
        results_list: InstanceList,
        batch_img_metas: list[dict],
        rescale: bool,
        activate_map: bool,
    ) -> InstanceList:
        """Paste masks into the images.

        Args:
            mask_probs: Mask probabilities of each image, shape (n, 1, mask_size, mask_size).
            results_list: Detections of each image, in pixels of its part of the network's input.
            batch_img_metas: See :meth:`predict_by_feat`.
            rescale: See :meth:`predict_by_feat`.
            activate_map: As in ``FCNMaskHead``: that they are probabilities.

        Returns:
            See :meth:`predict_by_feat`.
        """
        image_sizes = []
        for results, meta in zip(results_list, batch_img_metas):
            if rescale:
                results.bboxes /= results.bboxes.new_tensor(meta.get('scale_factor', (1, 1))).repeat(2)
                image_sizes.append(meta['ori_shape'][:2])
            else:
                top, bottom, left, right = _border(meta)
                image_sizes.append((int(bottom - top), int(right - left)))
        counts = [len(results) for results in results_list]
        boxes = torch.cat([results.bboxes for results in results_list])
        threshold = self.test_cfg.get('mask_thr_binary', 0.5)
        masks = paste_masks_of_images(torch.cat(mask_probs)[:, 0], boxes, counts, image_sizes, threshold)
        for results, masks_of_img in zip(results_list, masks):
            results.masks = masks_of_img
        return results_list

    def _check_stride(self, heatmap: Tensor, batch_img_metas: list[dict]) -> None:
        expected = tuple(batch_img_metas[0]['batch_input_shape'])
        if tuple(side * self.stride for side in heatmap.shape[2:]) != expected:
            raise InputError(
                f'images padded to {expected} pixels have a map of {tuple(heatmap.shape[2:])}, but bbox_head.stride is '
                f'{self.stride}: set --cfg-options model.data_preprocessor.pad_size_divisor=32 (HourglassNet: 128), or '
                'correct model.bbox_head.stride'
            )


def _border(meta: dict) -> tuple[float, ...]:
    """Top, bottom, left and right of the image in the network's input, without its padding."""
    height, width = meta['img_shape'][:2]
    return tuple(meta.get('border', (0, height, 0, width)))


def _at(maps: Tensor, cells: Tensor) -> Tensor:
    """Take maps (N, C, H, W) at locations (N, K), shape (N, C, K)."""
    return maps.flatten(2).gather(2, cells[:, None].expand(-1, maps.shape[1], -1))


def _product(logits: list[Tensor]) -> Tensor:
    """Logits of the product of the sigmoids of one or two logits: 1 / p - 1 = e^-a + e^-b + e^-(a + b)."""
    if len(logits) == 1:
        return logits[0]
    a, b = logits
    return -torch.logsumexp(torch.stack([-a, -b, -a - b]), dim=0)
