from .coco_instance_panoptic import CocoInstancePanopticDataset
from .samplers import SeededGroupMultiSourceSampler
from .start_checks import check_inputs
from .transforms import *

__all__ = ['CocoInstancePanopticDataset', 'SeededGroupMultiSourceSampler', 'check_inputs']
