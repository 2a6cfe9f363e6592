from .load_instances_and_panoptic_seg import LoadInstancesAndPanopticSeg
from .short_side_resize import ShortSideResize

__all__ = ['LoadInstancesAndPanopticSeg', 'ShortSideResize']
