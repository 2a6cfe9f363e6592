from .centermask_roi_head import CenterMaskRoIHead
from .mask_heads import (
    BoxSupervisedFCNMaskHead,
    CenterMaskIoUHead,
    SAGHTCMaskHead,
    SAGMaskHead,
    SAGSCNetMaskHead,
)
from .roi_extractors import ScaleAdaptiveRoIExtractor

__all__ = [
    'BoxSupervisedFCNMaskHead',
    'CenterMaskIoUHead',
    'CenterMaskRoIHead',
    'SAGHTCMaskHead',
    'SAGMaskHead',
    'SAGSCNetMaskHead',
    'ScaleAdaptiveRoIExtractor',
]
