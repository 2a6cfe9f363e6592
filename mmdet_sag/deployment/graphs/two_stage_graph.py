import torch
from mmdet.models.detectors import TwoStageDetector
from mmdet.models.roi_heads import (
    CascadeRoIHead,
    HybridTaskCascadeRoIHead,
    MaskScoringRoIHead,
    SCNetRoIHead,
    StandardRoIHead,
)
from torch import Tensor

from ...errors import InputError
from ...models.roi_heads import SAGMaskHead
from ...structures.inclusive_boxes import clip_boxes
from ..onnx_operators import is_exporting, non_max_suppression
from .detection_graph import Candidates, DetectionGraph, Outputs, by_prior, keep_best, take, top_scores, with_filler

_ROI_HEADS = (StandardRoIHead, CascadeRoIHead, HybridTaskCascadeRoIHead, MaskScoringRoIHead, SCNetRoIHead)


class TwoStageGraph(DetectionGraph):
    """Mask R-CNN, Mask Scoring R-CNN, Cascade Mask R-CNN, HTC or SCNet as one graph.

    Arguments are those of :class:`DetectionGraph`.

    Every image has ``test_cfg.rpn.max_per_img`` proposals; those that only fill the list detect nothing.

    Raises:
        InputError: Its RoI head or an option of its ``test_cfg`` cannot be exported.
    """

    def __init__(self, detector: TwoStageDetector, dtype: torch.dtype = torch.float32) -> None:
        if type(detector.roi_head) not in _ROI_HEADS:
            known = ', '.join(head.__name__ for head in _ROI_HEADS)
            raise InputError(f'{type(detector.roi_head).__name__} cannot be exported, only {known} can')
        super().__init__(detector, dtype)
        self.check_test_cfg('rpn', 'nms_pre', 'max_per_img')
        self.check_test_cfg('rcnn', 'max_per_img')
        if isinstance(detector.roi_head, SCNetRoIHead):
            self.detector.roi_head._fuse_glbctx = lambda feats, context, rois: feats + context[rois[:, 0].long()]

    def forward(self, images: Tensor, image_sizes: Tensor) -> Outputs:
        detector = self.detector
        feats = detector.extract_feat(images.to(self.dtype))
        context = self._context(feats)
        proposals, valid = self._proposals(feats, image_sizes)
        boxes, scores = self._box_branch(feats, context, proposals, image_sizes)
        boxes, scores, labels, image = self._detections(boxes, torch.where(valid[..., None], scores, 0.0))
        rois = torch.cat([image[:, None].to(boxes.dtype), boxes], dim=1)
        probs, ious = self._mask_branch(feats, context, *with_filler(rois, labels))
        if ious is not None:
            scores = scores * ious[:-1]
        return Outputs(boxes, scores, labels, image, probs[:-1], scores)

    def _context(self, feats: tuple[Tensor, ...]) -> dict:
        """Features that the branches of HTC and SCNet take besides RoI features."""
        roi_head, context = self.detector.roi_head, {}
        if getattr(roi_head, 'with_semantic', False):
            context['semantic_feat'] = roi_head.semantic_head(feats)[1]
        if getattr(roi_head, 'with_glbctx', False):
            context['glbctx_feat'] = roi_head.glbctx_head(feats)[1]
        return context

    def _proposals(self, feats: tuple[Tensor, ...], image_sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (N, K, 4), and which of them are proposals (N, K)."""
        head, cfg = self.detector.rpn_head, self.detector.test_cfg.rpn
        cls_scores, bbox_preds = head(feats)
        priors = head.prior_generator.grid_priors([score.shape[-2:] for score in cls_scores], device=feats[0].device)
        levels = []
        for level, (cls_score, bbox_pred, level_priors) in enumerate(zip(cls_scores, bbox_preds, priors)):
            cls_score = by_prior(cls_score, head.cls_out_channels)
            scores = cls_score.sigmoid() if head.use_sigmoid_cls else cls_score.softmax(-1)[..., :-1]
            best, index = top_scores(scores[..., 0], cfg.nms_pre)
            deltas = by_prior(bbox_pred, 4)
            boxes = _decode(head.bbox_coder, level_priors[index], take(deltas, index))
            levels.append((boxes, best, torch.full_like(index, level)))
        boxes, scores, labels = (torch.cat(parts, dim=1) for parts in zip(*levels))
        boxes = clip_boxes(boxes, image_sizes[:, None])
        large = (boxes[..., 2:] - boxes[..., :2] > cfg.get('min_bbox_size', -1)).all(dim=-1)
        candidates = Candidates(boxes, torch.where(large, scores, 0.0), labels)
        order, best = keep_best(candidates, len(levels), cfg.nms.iou_threshold, cfg.max_per_img)
        return take(boxes, order), best > 0

    def _box_branch(
        self, feats: tuple[Tensor, ...], context: dict, boxes: Tensor, image_sizes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Boxes (N, K, 4 or classes * 4) of proposals (N, K, 4), and their scores (N, K, classes)."""
        roi_head = self.detector.roi_head
        heads = roi_head.bbox_head if isinstance(roi_head, CascadeRoIHead) else [roi_head.bbox_head]
        image = torch.arange(boxes.shape[0], device=boxes.device)[:, None, None].expand(-1, boxes.shape[1], 1)
        scores = []
        for stage, head in enumerate(heads):
            rois = torch.cat([image.to(boxes.dtype), boxes], dim=2).flatten(0, 1)
            stages = dict(stage=stage) if isinstance(roi_head, CascadeRoIHead) else {}
            results = roi_head._bbox_forward(x=feats, rois=rois, **stages, **context)
            logits = results['cls_score'].float().unflatten(0, boxes.shape[:2])
            deltas = results['bbox_pred'].float().unflatten(0, boxes.shape[:2])
            scores.append(logits)
            if stage < len(heads) - 1 and not head.reg_class_agnostic:
                label = logits[..., :-1].argmax(dim=-1)[..., None]
                deltas = deltas.gather(2, torch.cat([label * 4 + i for i in range(4)], dim=2))
            count = deltas.shape[2] // 4
            priors = boxes[:, :, None].expand(-1, -1, count, -1)
            decoded = _decode(head.bbox_coder, priors, deltas.unflatten(2, (count, 4)))
            boxes = clip_boxes(decoded, image_sizes[:, None, None]).flatten(2)
        return boxes, (sum(scores) / len(scores)).softmax(dim=-1)[..., :-1]

    def _detections(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, ...]:
        """Boxes (n, 4), scores, labels and images (n, ) after NMS in each class."""
        cfg = self.detector.test_cfg.rcnn
        num_images, num_boxes, num_classes = scores.shape
        scores = torch.where(scores > cfg.score_thr, scores, 0.0).transpose(1, 2)
        boxes = boxes.unflatten(2, (-1, 4)).expand(-1, -1, num_classes, -1).transpose(1, 2)
        # Each class has its own boxes, so a class of an image takes the place of ONNX's image.
        kept = non_max_suppression(
            boxes.flatten(0, 1), scores.reshape(-1, 1, num_boxes), cfg.max_per_img, cfg.nms.iou_threshold
        )
        group, _, index = kept.unbind(1)
        scores = scores.flatten(0, 1)
        scores = torch.zeros_like(scores).index_put((group, index), scores[group, index])
        best, order = scores.reshape(num_images, -1).topk(min(cfg.max_per_img, num_boxes * num_classes), dim=1)
        image, rank = (best > 0).nonzero().unbind(1)
        order = order[image, rank]
        label = order.div(num_boxes, rounding_mode='floor')
        return boxes[image, label, order - label * num_boxes], best[image, rank], label, image

    def _mask_branch(
        self, feats: tuple[Tensor, ...], context: dict, rois: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Mask probabilities (n, h, w) of RoIs' classes, and their predicted IoU (n, ) from Mask Scoring R-CNN."""
        roi_head, ious = self.detector.roi_head, None
        if isinstance(roi_head, SCNetRoIHead):
            # MMDetection's pooling has a branch for no RoIs.
            if is_exporting():
                torch._check(rois.shape[0] > 0)
            relayed = roi_head._bbox_forward(stage=-1, x=feats, rois=rois, **context)['relayed_feat']
            context = dict(context, relayed_feat=roi_head.feat_relay_head(relayed))
            mask_preds = [roi_head._mask_forward(feats, rois, **context)['mask_preds']]
        elif isinstance(roi_head, HybridTaskCascadeRoIHead):
            mask_preds = roi_head._mask_forward(-1, feats, rois, training=False, **context)['mask_preds']
        elif isinstance(roi_head, CascadeRoIHead):
            stages = range(roi_head.num_stages)
            mask_preds = [roi_head._mask_forward(stage, feats, rois)['mask_preds'] for stage in stages]
        elif isinstance(roi_head, MaskScoringRoIHead):
            results = roi_head._mask_forward(feats, rois)
            mask_preds = [results['mask_preds']]
            ious = roi_head.mask_iou_head(results['mask_feats'], _of_class(mask_preds[0], labels))
            ious = ious.float().gather(1, labels[:, None])[:, 0]
        elif isinstance(roi_head.mask_head, SAGMaskHead):
            extractor = roi_head.mask_roi_extractor
            mask_feats = extractor(feats[: extractor.num_inputs], rois)
            mask_preds = [roi_head.mask_head.forward_of_class(mask_feats, labels)]
        else:
            mask_preds = [roi_head._mask_forward(feats, rois)['mask_preds']]
        probs = [_of_class(logits, labels).float().sigmoid() for logits in mask_preds]
        return sum(probs) / len(probs), ious


def _decode(coder: torch.nn.Module, priors: Tensor, deltas: Tensor) -> Tensor:
    """Boxes of priors and deltas of the same shape (..., 4), not clipped."""
    return coder.decode(priors.reshape(-1, 4), deltas.reshape(-1, 4)).view(deltas.shape)


def _of_class(logits: Tensor, labels: Tensor) -> Tensor:
    if logits.shape[1] == 1:
        return logits[:, 0]
    index = labels[:, None, None, None].expand(-1, 1, *logits.shape[2:])
    return logits.gather(1, index)[:, 0]
