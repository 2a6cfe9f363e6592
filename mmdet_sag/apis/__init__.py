from .image_predictor import ImagePredictor, PanopticInferencer, panoptic_image
from .prediction_formats import CocoPredictions, to_supervision

__all__ = ['CocoPredictions', 'ImagePredictor', 'PanopticInferencer', 'panoptic_image', 'to_supervision']
