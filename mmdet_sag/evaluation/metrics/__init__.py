from .unrounded_coco_metric import UnroundedCocoMetric

__all__ = ['UnroundedCocoMetric']
