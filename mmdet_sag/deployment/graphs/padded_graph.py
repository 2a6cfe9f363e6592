from typing import NamedTuple

import torch
from torch import Tensor, nn

from .detection_graph import DetectionGraph


class PaddedOutputs(NamedTuple):
    """Outputs of an exported model with a fixed number of detections, by their names in its file.

    ``num_detections``, shape (N, ), int64, are those of each image; the rest is zeros. The others are those of
    :class:`Outputs`, by descending score, of shape (N, K, ...) in place of (n, ...).
    """

    num_detections: Tensor
    boxes: Tensor
    scores: Tensor
    labels: Tensor
    mask_probs: Tensor
    mask_scores: Tensor


class PaddedGraph(nn.Module):
    """A graph whose outputs have the same shape for all images, as servers and compilers need it.

    Of each image, the ``num_detections`` of the highest scores are kept.
    """

    def __init__(self, graph: DetectionGraph, num_detections: int) -> None:
        super().__init__()
        # Not `graph`, a name that exported modules have for another thing.
        self.unpadded = graph
        self.num_detections = num_detections

    def forward(self, images: Tensor, image_sizes: Tensor) -> PaddedOutputs:
        """Detect objects; arguments are those of :class:`DetectionGraph`."""
        if hasattr(self.unpadded, 'padded'):
            return self.unpadded.padded(images, image_sizes, self.num_detections)
        outputs = self.unpadded(images, image_sizes)
        image = outputs.image_indices
        counts = (image[:, None] == torch.arange(images.shape[0], device=image.device)).long().sum(dim=0)
        starts = counts.cumsum(0) - counts
        # A place behind the last one takes what is dropped.
        rank = (torch.arange(image.shape[0], device=image.device) - starts[image]).clamp(max=self.num_detections)

        def pad(values: Tensor) -> Tensor:
            padded = values.new_zeros(images.shape[0], self.num_detections + 1, *values.shape[1:])
            return padded.index_put((image, rank), values)[:, :-1]

        parts = (outputs.boxes, outputs.scores, outputs.labels, outputs.mask_probs, outputs.mask_scores)
        return PaddedOutputs(counts.clamp(max=self.num_detections), *map(pad, parts))
