from typing import NamedTuple

from torch import Tensor

from .centermask_graph import CenterMaskGraph


class PanopticOutputs(NamedTuple):
    """Outputs of an exported panoptic model, by their names in its file.

    Attributes:
        semantic_logits: Logits of the stuff classes and, last, of things, shape (N, C, H/4, W/4), before they are
            resized. The others are those of :class:`Outputs`.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    image_indices: Tensor
    mask_probs: Tensor
    mask_scores: Tensor
    semantic_logits: Tensor


class PanopticCenterMaskGraph(CenterMaskGraph):
    """:class:`PanopticCenterMask` as one graph, up to what the runtime merges.

    Arguments are those of :class:`CenterMaskGraph`.
    """

    def forward(self, images: Tensor, image_sizes: Tensor) -> PanopticOutputs:
        feats = self.detector.extract_feat(images.to(self.dtype))
        return PanopticOutputs(*self.detect(feats, image_sizes), self.detector.semantic_head(feats)['seg_preds'])
