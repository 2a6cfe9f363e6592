from .coco_accuracy import CocoAccuracy
from .confusion_matrix import confusion_matrix
from .data_statistics import DataStatistics
from .ground_truth import GroundTruth
from .image_result import ImageResult, load_results
from .matched_image import MatchedImage, Outcome
from .report_page import ReportPage, class_colours
from .score_thresholds import ScoreThresholds
from .training_log import read_scalars

__all__ = [
    'CocoAccuracy',
    'DataStatistics',
    'GroundTruth',
    'ImageResult',
    'MatchedImage',
    'Outcome',
    'ReportPage',
    'ScoreThresholds',
    'class_colours',
    'confusion_matrix',
    'load_results',
    'read_scalars',
]
