from .centermask import CenterMask
from .panoptic_centermask import PanopticCenterMask
from .polite_teacher import PoliteTeacher

__all__ = ['CenterMask', 'PanopticCenterMask', 'PoliteTeacher']
