import torch
from mmdet.models.detectors import TwoStageDetector
from torch import nn

from ...errors import InputError
from ...models.dense_heads import CenterMaskFCOSHead
from ...models.detectors import CenterMask, PanopticCenterMask, PointCenterMask
from .box_head_graph import BoxHeadGraph
from .centermask_graph import CenterMaskGraph
from .detection_graph import DetectionGraph
from .panoptic_centermask_graph import PanopticCenterMaskGraph
from .point_centermask_fcos_graph import PointCenterMaskFCOSGraph
from .point_centermask_graph import PointCenterMaskGraph
from .segmentation_graph import SegmentationGraph
from .two_stage_graph import TwoStageGraph


def build_graph(detector: nn.Module, dtype: torch.dtype = torch.float32) -> DetectionGraph:
    """Build the graph of a detector, from the image tensor to mask probabilities, or of a segmentor, to logits.

    Weights are loaded before, and layers compute in ``dtype``. Segmentors are encoder-decoders of MMSegmentation.

    Raises:
        InputError: The detector has no instance masks, or a part that cannot be exported.
    """
    if isinstance(detector, PointCenterMask):
        kind = PointCenterMaskFCOSGraph if isinstance(detector.bbox_head, CenterMaskFCOSHead) else PointCenterMaskGraph
        return kind(detector, dtype)
    if getattr(getattr(detector, 'roi_head', None), 'with_mask', False):
        if isinstance(detector, CenterMask):
            if not isinstance(detector.bbox_head, CenterMaskFCOSHead):
                return BoxHeadGraph(detector, dtype)
            kind = PanopticCenterMaskGraph if isinstance(detector, PanopticCenterMask) else CenterMaskGraph
            return kind(detector, dtype)
        if isinstance(detector, TwoStageDetector) and detector.with_rpn:
            return TwoStageGraph(detector, dtype)
    # By its name, since MMSegmentation may not be installed. Subclasses may finish their logits in other ways.
    if type(detector).__name__ == 'EncoderDecoder':
        return SegmentationGraph(detector, dtype)
    raise InputError(
        f'{type(detector).__name__} cannot be exported: only CenterMask, PointCenterMask, two-stage detectors '
        'with a mask head, such as Mask R-CNN, and the EncoderDecoder of MMSegmentation can'
    )
