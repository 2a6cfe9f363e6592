from torch import Tensor

from .centermask_graph import CenterMaskGraph


class PanopticCenterMaskGraph(CenterMaskGraph):
    """:class:`PanopticCenterMask` as one graph, up to what the runtime merges.

    Arguments are those of :class:`CenterMaskGraph`.
    """

    def forward(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, ...]:
        """Detect objects, and segment the image.

        Returns:
            :class:`Outputs`, and ``semantic_logits``: logits of the stuff classes and, last, of things, shape
            (N, C, H/4, W/4), before they are resized.
        """
        feats = self.detector.extract_feat(images.to(self.dtype))
        return *self.detect(feats, image_sizes), self.detector.semantic_head(feats)['seg_preds']
