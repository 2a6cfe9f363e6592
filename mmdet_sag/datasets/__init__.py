from .coco_instance_panoptic import CocoInstancePanopticDataset
from .start_checks import check_inputs
from .transforms import *

__all__ = ['CocoInstancePanopticDataset', 'check_inputs']
