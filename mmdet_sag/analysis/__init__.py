from .charts import read_scalars
from .coco_accuracy import CocoAccuracy, ScoreThresholds
from .ground_truth import DataStatistics, GroundTruth
from .image_results import ImageResult, MatchedImage, Outcome, confusion_matrix, load_results
from .report_page import ReportPage, class_colours
from .segmentation_page import SegmentationPage
from .segmentation_results import SegmentationResults, SegmentedImage

__all__ = [
    'CocoAccuracy',
    'DataStatistics',
    'GroundTruth',
    'ImageResult',
    'MatchedImage',
    'Outcome',
    'ReportPage',
    'ScoreThresholds',
    'SegmentationPage',
    'SegmentationResults',
    'SegmentedImage',
    'class_colours',
    'confusion_matrix',
    'load_results',
    'read_scalars',
]
