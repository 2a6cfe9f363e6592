from .coco_predictions import CocoPredictions
from .panoptic_inferencer import PanopticInferencer
from .predictor import Predictor
from .supervision_detections import to_supervision

__all__ = ['CocoPredictions', 'PanopticInferencer', 'Predictor', 'to_supervision']
