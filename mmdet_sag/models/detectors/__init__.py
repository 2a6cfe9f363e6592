from .centermask import CenterMask
from .panoptic_centermask import PanopticCenterMask
from .point_centermask import PointCenterMask
from .polite_teacher import PoliteTeacher

__all__ = ['CenterMask', 'PanopticCenterMask', 'PointCenterMask', 'PoliteTeacher']
