from .centermask_roi_head import CenterMaskRoIHead
from .mask_heads import CenterMaskIoUHead, SAGMaskHead
from .roi_extractors import ScaleAdaptiveRoIExtractor

__all__ = ['CenterMaskIoUHead', 'CenterMaskRoIHead', 'SAGMaskHead', 'ScaleAdaptiveRoIExtractor']
