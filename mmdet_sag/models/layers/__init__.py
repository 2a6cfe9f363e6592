from .bbox_nms import class_by_class_nms
from .spatial_attention import SpatialAttention

__all__ = ['SpatialAttention', 'class_by_class_nms']
