from .centermask_fcos_head import CenterMaskFCOSHead
from .point_centermask_fcos_head import PointCenterMaskFCOSHead
from .point_centermask_head import PointCenterMaskHead

__all__ = ['CenterMaskFCOSHead', 'PointCenterMaskFCOSHead', 'PointCenterMaskHead']
