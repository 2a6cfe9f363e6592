from .dump_rle_results import DumpRLEResults
from .standalone_coco_panoptic_metric import StandaloneCocoPanopticMetric
from .unrounded_coco_metric import UnroundedCocoMetric
from .vessel_metric import VesselMetric

__all__ = ['DumpRLEResults', 'StandaloneCocoPanopticMetric', 'UnroundedCocoMetric', 'VesselMetric']
