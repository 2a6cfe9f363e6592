import torch
from torch import Tensor

from .centermask_graph import CenterMaskGraph
from .detection_graph import Outputs


class PointCenterMaskFCOSGraph(CenterMaskGraph):
    """:class:`PointCenterMask` beside FCOS as one graph; arguments and errors are those of :class:`CenterMaskGraph`."""

    part = None

    def detect(self, feats: tuple[Tensor, ...], image_sizes: Tensor) -> Outputs:
        head = self.detector.bbox_head
        outputs = head(feats)
        found = self._best(self._candidates(outputs, image_sizes), image_sizes)
        # Each detection as an image of its own, with the shape of its location and the saliency of its class.
        shape, saliency = (maps[0] for maps in outputs[3:])
        if shape is not None:
            shape = shape[found.image, :, found.cells][..., None]
        if saliency is not None:
            label = found.labels if saliency.shape[1] > 1 else torch.zeros_like(found.labels)
            saliency = saliency[found.image, label][:, None]
        labels, boxes = found.labels[:, None], found.clipped[:, None]
        probs = head.mask_probs(shape, saliency, boxes, labels, torch.zeros_like(labels))[:, 0]
        return Outputs(found.clipped, found.scores, found.labels, found.image, probs, found.scores)
