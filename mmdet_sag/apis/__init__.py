from .image_predictor import ImagePredictor, PanopticInferencer
from .prediction_formats import CocoPredictions, to_supervision

__all__ = ['CocoPredictions', 'ImagePredictor', 'PanopticInferencer', 'to_supervision']
