from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from mmdet.utils import ConfigType, InstanceList
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ...errors import InputError
from ...structures.inclusive_boxes import clip_boxes, not_empty
from ...structures.mask import paste_masks_of_images
from ..layers.group_selection import filled


class PointDetections(NamedTuple):
    """Objects of each image, by descending score; a score of 0 fills the list.

    Attributes:
        boxes: x1, y1, x2, y2 in pixels of the network's input, not clipped, shape (N, K, 4).
        scores: Scores of shape (N, K).
        labels: Classes of shape (N, K).
        cells: Locations on the map, row * width + column, shape (N, K). Maps of several levels follow one another.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    cells: Tensor


class PointMaskMixin:
    """The mask branches of a dense head: local shape and global saliency, their loss and their masks.

    At the location of an object, a vector of ``shape_size ** 2`` logits is the local shape, which is resized to the
    box. A global saliency map of the whole image is cropped at the box. The mask is the product of their sigmoids.

    The last layer of the shape branch runs at the objects only, which gives the same numbers as running it everywhere.
    Masks are assembled on ``mask_size ** 2`` points of each box, in training as in testing.

    Source: `CenterMask: Single Shot Instance Segmentation with Point Representation
    <https://arxiv.org/abs/2004.04446>`_.

    Attributes:
        stride: Pixels of the network's input in one of the saliency map.
    """

    stride: int
    test_cfg: ConfigDict

    def add_mask_branches(
        self,
        in_channels: int,
        feat_channels: int,
        num_classes: int,
        shape_size: int,
        saliency: str | None,
        mask_size: int,
        loss_mask: ConfigType,
    ) -> None:
        """Build the branches. Arguments are those of :class:`PointCenterMaskHead`.

        Raises:
            InputError: There is neither of the two branches, or ``saliency`` is another word.
        """
        saliency_channels = {None: 0, 'class-agnostic': 1, 'class-specific': num_classes}
        if saliency not in saliency_channels:
            raise InputError(f"bbox_head.saliency is {saliency!r}: set 'class-agnostic', 'class-specific' or None")
        if not shape_size and saliency is None:
            raise InputError('bbox_head has no shape and no saliency to make masks of: set shape_size or saliency')

        def branch(out_channels: int) -> nn.Sequential | None:
            if not out_channels:
                return None
            # The layers of CenterNet's branches.
            hidden = nn.Conv2d(in_channels, feat_channels, 3, padding=1), nn.ReLU(inplace=True)
            return nn.Sequential(*hidden, nn.Conv2d(feat_channels, out_channels, 1))

        self.mask_size = mask_size
        self.shape_size = shape_size
        self.shape_head = branch(shape_size**2)
        self.saliency_head = branch(saliency_channels[saliency])
        self.loss_mask = MODELS.build(loss_mask)

    def shape_features(self, x: Tensor) -> Tensor | None:
        """Hidden features (N, feat_channels, H, W) of the shape branch, None without it."""
        return None if self.shape_head is None else self.shape_head[1](self.shape_head[0](x))

    def saliency_map(self, x: Tensor) -> Tensor | None:
        """Logits (N, 1 or num_classes, H, W) of the saliency, None without it."""
        return None if self.saliency_head is None else self.saliency_head(x)

    def mask_logits(
        self, shape: Tensor | None, saliency: Tensor | None, boxes: Tensor, labels: Tensor, cells: Tensor
    ) -> list[Tensor]:
        """Shape and saliency of objects, on the points of their boxes: logits (N, K, mask_size, mask_size) of each.

        Args:
            shape: Hidden features of the shape branch, shape (N, C, H, W) or (N, C, locations), or None.
            saliency: Saliency of shape (N, 1 or num_classes, H, W), or None.
            boxes: x1, y1, x2, y2 in pixels of the network's input, shape (N, K, 4).
            labels: Classes of shape (N, K).
            cells: Locations of the objects, as in :class:`PointDetections`, shape (N, K).
        """
        size, logits = self.mask_size, []
        if shape is not None and self.shape_head is not None:
            templates = self.shape_head[2](take_cells(shape, cells)[..., None])[..., 0].transpose(1, 2).float()
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

    def mask_losses(
        self,
        shape: Tensor | None,
        saliency: Tensor | None,
        batch_gt_instances: InstanceList,
        cells: list[Tensor],
        objects: list[Tensor],
    ) -> Tensor:
        """Compute the loss of the masks that locations of each image make of their object's box, a mean of all points.

        ``shape`` and ``saliency`` are as for :meth:`mask_logits`, and ground truth has ``masks``. Each image has
        ``cells`` (n, ), locations as in :class:`PointDetections`, and ``objects`` (n, ), the numbers of their objects.
        """
        preds, targets = [], []
        for i, (gt_instances, cells_of_img, index) in enumerate(zip(batch_gt_instances, cells, objects)):
            boxes = gt_instances.bboxes
            if not len(index):
                continue
            own_shape, own_saliency = (None if maps is None else maps[i : i + 1] for maps in (shape, saliency))
            labels = gt_instances.labels[index][None]
            logits = self.mask_logits(own_shape, own_saliency, boxes[index][None], labels, cells_of_img[None])
            preds.append(_product(logits)[0])
            masks = gt_instances.masks.crop_and_resize(
                boxes.cpu().numpy(), (self.mask_size, self.mask_size), np.arange(len(boxes))
            )
            targets.append(torch.from_numpy(masks.to_ndarray()).to(boxes)[index])
        if targets:
            return self.loss_mask(torch.cat(preds), torch.cat(targets))
        # On several GPUs, all parameters have to take part in each step.
        branches = [branch for branch in (self.shape_head, self.saliency_head) if branch is not None]
        return 0 * torch.stack([value.sum() for branch in branches for value in branch.parameters()]).sum()

    def detected(self, scores: Tensor, boxes: Tensor) -> Tensor:
        """Whether objects of scores (N, K) and boxes (N, K, 4), clipped to the image, are detections, shape (N, K)."""
        return (scores > 0) & not_empty(boxes)

    def predict_masks(
        self,
        found: PointDetections,
        shape: Tensor | None,
        saliency: Tensor | None,
        batch_img_metas: list[dict],
        rescale: bool,
    ) -> InstanceList:
        """Clip the boxes of objects and find their masks; ``shape`` and ``saliency`` are as for :meth:`mask_logits`.

        Args:
            found: The objects.
            batch_img_metas: ``ori_shape`` and ``img_shape`` of each image, ``scale_factor`` if it was resized, and
                ``border`` (top, bottom, left, right) if it lies inside of ``img_shape``.
            rescale: Whether boxes and masks are returned at the original image's size.

        Returns:
            Of each image, ``bboxes`` (n, 4), clipped to the image, ``scores`` (n, ), ``labels`` (n, ) and ``masks``
            (n, H, W), :class:`RLEMasks`.
        """
        top, bottom, left, right = filled(found.boxes, list(map(_border, batch_img_metas)))[:, None].unbind(2)
        shift, image_sizes = torch.stack([left, top] * 2, dim=2), torch.stack([bottom - top, right - left], dim=2)
        boxes = clip_boxes(found.boxes - shift, image_sizes)
        probs = self.mask_probs(shape, saliency, boxes + shift, found.labels, found.cells)
        chosen = self.detected(found.scores, boxes)
        results_list = [
            InstanceData(bboxes=boxes[i, kept], scores=found.scores[i, kept], labels=found.labels[i, kept])
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
        """Paste mask probabilities (n, 1, mask_size, mask_size) of each image into it; see :meth:`predict_masks`.

        The boxes of detections are in pixels of the image's part of the network's input. ``activate_map`` says, as in
        ``FCNMaskHead``, that masks are probabilities.
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

    def check_stride(self, maps: Tensor, batch_img_metas: list[dict]) -> None:
        """Raise an :class:`InputError` if maps (N, C, H, W) of the finest level have another stride than the head."""
        expected = tuple(batch_img_metas[0]['batch_input_shape'])
        if tuple(side * self.stride for side in maps.shape[2:]) != expected:
            raise InputError(
                f'images padded to {expected} pixels have a map of {tuple(maps.shape[2:])}, but the stride of '
                f'model.bbox_head is {self.stride}: set --cfg-options model.data_preprocessor.pad_size_divisor=32 '
                '(HourglassNet: 128), or correct the stride'
            )


def _border(meta: dict) -> tuple[float, ...]:
    """Top, bottom, left and right of the image in the network's input, without its padding."""
    height, width = meta['img_shape'][:2]
    return tuple(meta.get('border', (0, height, 0, width)))


def take_cells(maps: Tensor, cells: Tensor) -> Tensor:
    """Take maps (N, C, H, W) or (N, C, locations) at locations (N, K), shape (N, C, K)."""
    return maps.flatten(2).gather(2, cells[:, None].expand(-1, maps.shape[1], -1))


def _product(logits: list[Tensor]) -> Tensor:
    """Logits of the product of the sigmoids of one or two logits: 1 / p - 1 = e^-a + e^-b + e^-(a + b)."""
    if len(logits) == 1:
        return logits[0]
    a, b = logits
    return -torch.logsumexp(torch.stack([-a, -b, -a - b]), dim=0)
