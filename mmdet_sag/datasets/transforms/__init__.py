from .load_instances_and_panoptic_seg import LoadInstancesAndPanopticSeg

__all__ = ['LoadInstancesAndPanopticSeg']
