from .panoptic_inferencer import PanopticInferencer

__all__ = ['PanopticInferencer']
