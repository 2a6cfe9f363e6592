from .dump_rle_results import DumpRLEResults
from .unrounded_coco_metric import UnroundedCocoMetric

__all__ = ['DumpRLEResults', 'UnroundedCocoMetric']
