import torch
from mmdet.models.dense_heads import FoveaHead, GFLHead, RepPointsHead, YOLOXHead
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from torch import Tensor

from ...errors import InputError
from ...models.detectors import CenterMask
from ...structures.inclusive_boxes import clip_boxes
from .centermask_graph import CenterMaskGraph
from .detection_graph import Candidates, by_prior, take, top_scores

# Heads with post-processing of their own that :meth:`BoxHeadGraph._decode` repeats.
_DECODED_HEADS = (FoveaHead, GFLHead, RepPointsHead, YOLOXHead)
_POST_PROCESSING = ('predict_by_feat', '_predict_by_feat_single')


class BoxHeadGraph(CenterMaskGraph):
    """:class:`CenterMask` behind a dense head of MMDetection as one graph.

    It exports the heads that choose and decode boxes as MMDetection's base class does, and FoveaBox, GFL, RepPoints and
    YOLOX. Arguments are those of :class:`DetectionGraph`.

    Raises:
        InputError: The head, or its ``test_cfg``, asks for what a graph cannot do.
    """

    def __init__(self, detector: CenterMask, dtype: torch.dtype = torch.float32) -> None:
        head = detector.bbox_head
        base = next((known for known in _DECODED_HEADS if isinstance(head, known)), BaseDenseHead)
        # PAA and the like derive from heads that can be exported, and post-process otherwise.
        if any(getattr(type(head), name, None) is not getattr(base, name) for name in _POST_PROCESSING):
            raise InputError(
                f'{type(head).__name__} cannot be exported, whose post-processing is its own: configs/centermask_any/'
                'README.md says which box heads can'
            )
        super().__init__(detector, dtype)

    @property
    def limits(self) -> tuple[str, ...]:
        # YOLOX hands all locations to its NMS.
        return ('max_per_img',) if isinstance(self.detector.bbox_head, YOLOXHead) else super().limits

    @property
    def keep_ties(self) -> bool:
        # YOLOX's detections are chosen by CenterMask, those of other heads by the head.
        return isinstance(self.detector.bbox_head, YOLOXHead)

    def _candidates(self, outputs: tuple[list[Tensor], ...], image_sizes: Tensor) -> Candidates:
        head, cfg = self.detector.bbox_head, self.cfg
        sizes = [level.shape[-2:] for level in outputs[0]]
        all_priors = head.prior_generator.grid_priors(sizes, dtype=torch.float32, device=outputs[0][0].device)
        levels = []
        for level, (priors, (cls_score, bbox_pred, *factors)) in enumerate(zip(all_priors, zip(*outputs))):
            logits = by_prior(cls_score, head.cls_out_channels)
            scores = logits.sigmoid() if head.use_sigmoid_cls else logits.softmax(-1)[..., :-1]
            factor = by_prior(factors[0], 1).sigmoid() if factors else torch.ones_like(scores[..., :1])
            num_priors = cls_score.shape[1] // head.cls_out_channels
            bbox_pred = by_prior(bbox_pred, bbox_pred.shape[1] // num_priors)
            if isinstance(head, YOLOXHead):
                scores, labels = (scores * factor).max(dim=-1)
                scores = torch.where(scores >= cfg.score_thr, scores, 0.0)
                priors = priors.expand(scores.shape[0], -1, -1)
            else:
                chosen = torch.where(scores > cfg.get('score_thr', 0), scores, -1.0).flatten(1)
                best, index = top_scores(chosen, cfg.nms_pre)
                place = index.div(head.num_classes, rounding_mode='floor')
                labels = index % head.num_classes
                scores = torch.where(best > -1, best * take(factor, place)[..., 0], 0.0)
                priors, bbox_pred = priors[place], take(bbox_pred, place)
            boxes = self._decode(level, priors.flatten(0, 1), bbox_pred.flatten(0, 1)).unflatten(0, scores.shape)
            levels.append((boxes, scores, labels))
        boxes, scores, labels = (torch.cat(parts, dim=1) for parts in zip(*levels))
        if isinstance(head, YOLOXHead):
            return Candidates(boxes, scores, labels)
        # FoveaBox's boxes end at the centre of the last pixel.
        if isinstance(head, (FoveaHead, RepPointsHead)) or head.bbox_coder.clip_border:
            boxes = clip_boxes(boxes, image_sizes[:, None], isinstance(head, FoveaHead))
        large = (boxes[..., 2:] - boxes[..., :2] > cfg.get('min_bbox_size', -1)).all(dim=-1)
        return Candidates(boxes, torch.where(large, scores, 0.0), labels)

    def _decode(self, level: int, priors: Tensor, bbox_pred: Tensor) -> Tensor:
        """Boxes (n, 4) of a level from priors (n, 2 or 4) and what the head predicts (n, c), not clipped."""
        head = self.detector.bbox_head
        stride = head.prior_generator.strides[level][0]
        anywhere = (float('inf'), float('inf'))
        if isinstance(head, GFLHead):
            return head.bbox_coder.decode(head.anchor_center(priors), head.integral(bbox_pred) * stride)
        if isinstance(head, YOLOXHead):
            return head._bbox_decode(torch.cat([priors, torch.full_like(priors, stride)], dim=1), bbox_pred)
        if isinstance(head, RepPointsHead):
            return head._bbox_decode(priors, bbox_pred, stride, anywhere)
        if isinstance(head, FoveaHead):
            return head._bbox_decode(priors, bbox_pred, head.base_edge_list[level], anywhere)
        return head.bbox_coder.decode(priors, bbox_pred)
