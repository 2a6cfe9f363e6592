from .coco_instance_panoptic import CocoInstancePanopticDataset
from .samplers import SeededGroupMultiSourceSampler
from .transforms import *

__all__ = ['CocoInstancePanopticDataset', 'SeededGroupMultiSourceSampler']
