from typing import NamedTuple

import torch
from torch import Tensor

from ...models.detectors import CenterMask, PointCenterMask
from ...models.roi_heads import ScaleAdaptiveRoIExtractor
from ...structures.inclusive_boxes import clip_boxes, not_empty
from .detection_graph import Candidates, DetectionGraph, Outputs, keep_best, take, top_scores, with_filler


class Found(NamedTuple):
    """Detections of all images as one list: :class:`Candidates` of shape (n, ...) in place of (N, M, ...).

    Attributes:
        clipped: The boxes, clipped to the image, shape (n, 4).
        image: Index of each detection's image in the batch, shape (n, ), ascending.
    """

    boxes: Tensor
    clipped: Tensor
    scores: Tensor
    labels: Tensor
    image: Tensor
    cells: Tensor | None


class CenterMaskGraph(DetectionGraph):
    """:class:`CenterMask` as one graph; arguments are those of :class:`DetectionGraph`.

    Raises:
        InputError: Its ``test_cfg`` asks for what a graph cannot do.
    """

    # The part of ``test_cfg`` that the box head has, None if that is all of it.
    part: str | None = 'bbox_head'
    # Limits that the test config of the box head has to set.
    limits = ('nms_pre', 'max_per_img')

    def __init__(self, detector: CenterMask | PointCenterMask, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(detector, dtype)
        # The test config of the box head.
        self.cfg = self.check_test_cfg(self.part, *self.limits)

    @property
    def keep_ties(self) -> bool:
        """Whether detections that tie with the last one are kept."""
        return self.cfg.get('keep_ties', True)

    def forward(self, images: Tensor, image_sizes: Tensor) -> Outputs:
        return self.detect(self.detector.extract_feat(images.to(self.dtype)), image_sizes)

    def detect(self, feats: tuple[Tensor, ...], image_sizes: Tensor) -> Outputs:
        """Detect objects in all levels of the FPN."""
        feats = self.detector.instance_feats(feats)
        found = self._best(self._candidates(self.detector.bbox_head(feats), image_sizes), image_sizes)
        rois = torch.cat([found.image[:, None].to(found.boxes.dtype), found.boxes], dim=1)
        rois, roi_labels = with_filler(rois, found.labels)
        probs, ious = self._masks(feats, rois, roi_labels, image_sizes)
        mask_scores = found.scores if ious is None else found.scores * ious[:-1]
        return Outputs(found.clipped, found.scores, found.labels, found.image, probs[:-1], mask_scores)

    def _best(self, candidates: Candidates, image_sizes: Tensor) -> Found:
        cfg, inclusive = self.cfg, getattr(self.detector, 'inclusive_boxes', False)
        order, best = keep_best(
            candidates,
            self.detector.bbox_head.num_classes,
            cfg.nms.iou_threshold,
            cfg.max_per_img,
            cfg.nms.get('offset', 0),
            self.keep_ties,
        )
        boxes = take(candidates.boxes, order)
        clipped = clip_boxes(boxes, image_sizes[:, None], inclusive)
        image, rank = ((best > 0) & not_empty(clipped, inclusive)).nonzero().unbind(1)

        def chosen(values: Tensor) -> Tensor:
            return values.gather(1, order)[image, rank]

        cells = None if candidates.cells is None else chosen(candidates.cells)
        labels = chosen(candidates.labels)
        return Found(boxes[image, rank], clipped[image, rank], best[image, rank], labels, image, cells)

    def _masks(
        self, feats: tuple[Tensor, ...], rois: Tensor, labels: Tensor, image_sizes: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Mask probabilities (n, h, w) of RoIs' classes and predicted IoU (n, ), None without MaskIoU head."""
        roi_head = self.detector.roi_head
        extractor = roi_head.mask_roi_extractor
        # Inside of an exportable one.
        scale_adaptive = isinstance(getattr(extractor, 'extractor', None), ScaleAdaptiveRoIExtractor)
        img_areas = image_sizes.to(rois.dtype).prod(dim=1)[rois[:, 0].long()] if scale_adaptive else None
        mask_feats = extractor(feats[: extractor.num_inputs], rois, img_areas=img_areas)
        mask_preds = roi_head.mask_head.forward_of_class(mask_feats, labels).to(mask_feats.dtype)
        probs = mask_preds[:, 0].float().sigmoid()
        if roi_head.mask_iou_head is None:
            return probs, None
        ious = roi_head.mask_iou_head(mask_feats, mask_preds[:, 0]).float()
        index = labels if ious.shape[1] > 1 else torch.zeros_like(labels)
        return probs, ious.gather(1, index[:, None])[:, 0]

    def _candidates(self, outputs: tuple[list[Tensor], ...], image_sizes: Tensor) -> Candidates:
        """Candidates of what the box head returned for each level."""
        head, cfg = self.detector.bbox_head, self.cfg
        levels, start = [], 0
        for cls_score, bbox_pred, centerness, stride in zip(*outputs[:3], head.strides):
            # In float32, as the points of what is predicted in half precision have to be.
            cls_score = cls_score.float().permute(0, 2, 3, 1).flatten(1, 2)
            joint, rank = head.rank_candidates(cls_score, centerness.flatten(1)[..., None], cfg)
            best, index = top_scores(rank.flatten(1), cfg.nms_pre)
            place = index.div(head.num_classes, rounding_mode='floor')
            joint = torch.where(best > -1, joint.flatten(1).gather(1, index), 0.0)
            distances = take(bbox_pred.float().flatten(2).transpose(1, 2), place)
            if head.norm_on_bbox:
                distances = distances * stride
            height, width = bbox_pred.shape[2:]
            row = place.div(width, rounding_mode='floor')
            points = torch.stack([place - row * width, row], dim=-1)
            points = (points.to(distances.dtype) + head.prior_generator.offset) * stride
            levels.append((points, distances, joint, index % head.num_classes, start + place))
            start = start + height * width
        points, distances, joint, labels, cells = (torch.cat(parts, dim=1) for parts in zip(*levels))
        boxes, scores = head.decode_candidates(points, distances, joint, image_sizes[:, None], cfg)
        large = (boxes[..., 2:] - boxes[..., :2] > cfg.get('min_bbox_size', -1)).all(dim=-1)
        return Candidates(boxes, torch.where(large, scores, 0.0), labels, cells)
