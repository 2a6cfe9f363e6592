import torch
from torch import Tensor

from ...structures.inclusive_boxes import clip_boxes
from .detection_graph import DetectionGraph, Outputs, take
from .padded_graph import PaddedOutputs


class PointCenterMaskGraph(DetectionGraph):
    """:class:`PointCenterMask` as one graph of plain operators, without RoIAlign and NMS.

    Arguments are those of :class:`DetectionGraph`.
    """

    def forward(self, images: Tensor, image_sizes: Tensor) -> Outputs:
        boxes, scores, labels, probs = self._best(images, image_sizes)
        image, rank = (scores > 0).nonzero().unbind(1)
        found = scores[image, rank]
        return Outputs(boxes[image, rank], found, labels[image, rank], image, probs[image, rank], found)

    def padded(self, images: Tensor, image_sizes: Tensor, num_detections: int) -> PaddedOutputs:
        """Detect ``num_detections`` objects per image, filled up by zeros, by operators with outputs of fixed size."""

        def pad(values: Tensor) -> Tensor:
            missing = num_detections - values.shape[1]
            zeros = values.new_zeros(values.shape[0], missing, *values.shape[2:])
            return torch.cat([values, zeros], dim=1) if missing else values

        boxes, scores, labels, probs = map(pad, self._best(images, image_sizes))
        return PaddedOutputs((scores > 0).long().sum(dim=1), boxes, scores, labels, probs, scores)

    def _best(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Boxes (N, K, 4), scores, labels (N, K) and mask probabilities, by descending score; zeros fill them up."""
        head = self.detector.bbox_head
        maps = head(self.detector.extract_feat(images.to(self.dtype)))
        heatmap, wh, offset, shape, saliency = (part[0] for part in maps)
        peaks = head.find_peaks(heatmap, wh, offset)
        boxes = clip_boxes(peaks.boxes, image_sizes[:, None])
        kept = head.detected(peaks.scores, boxes)
        # What is dropped comes last.
        scores, order = (peaks.scores * kept).topk(kept.shape[1], dim=1)
        boxes, valid = take(boxes, order), scores > 0
        labels, cells = (values.gather(1, order) * valid for values in (peaks.labels, peaks.cells))
        probs = head.mask_probs(shape, saliency, boxes, labels, cells)
        return boxes * valid[..., None], scores, labels, probs * valid[..., None, None]
