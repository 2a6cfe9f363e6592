import contextlib
import io
from collections.abc import Sequence

import numpy as np
from mmdet.datasets.api_wrappers import COCOeval

from .ground_truth import GroundTruth
from .image_result import ImageResult

SIZES = ('all', 'small', 'medium', 'large')
IOU_THRS = np.linspace(0.5, 0.95, 10)


class CocoAccuracy:
    """COCO's average precision and precision-recall curves, by class and size of the objects.

    The average over classes is the AP of :class:`mmdet_sag.evaluation.UnroundedCocoMetric`.

    Args:
        truth: Annotated objects.
        results: Predictions; images without any do not count.
        iou_type: ``'segm'`` or ``'bbox'``.
    """

    def __init__(self, truth: GroundTruth, results: Sequence[ImageResult], iou_type: str) -> None:
        evaluation = evaluate(truth, results, iou_type, use_mask_scores=iou_type == 'segm')
        if evaluation is None:
            num_classes, num_sizes = len(truth.classes), len(SIZES)
            self._precision = np.zeros((len(IOU_THRS), 101, num_classes, num_sizes))
            self._recall = np.zeros((len(IOU_THRS), num_classes, num_sizes))
            ids = {result.image_id for result in results}
            counts = np.zeros((num_classes, num_sizes), dtype=np.int64)
            limits = [(0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10)]
            for image_id in ids:
                for annotation in truth.annotations(image_id):
                    if not annotation.get('iscrowd', 0):
                        for size, (low, high) in enumerate(limits):
                            counts[truth.label(annotation), size] += low <= annotation['area'] <= high
            # As pycocotools says it: nothing to find.
            self._precision[:, :, counts == 0] = -1
            self._recall[:, counts == 0] = -1
            return
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.accumulate()
        self._precision = evaluation.eval['precision'][..., -1]
        self._recall = evaluation.eval['recall'][..., -1]

    def ap(self, iou_thr: float = 0.0, size: str = 'all', label: int = -1) -> float:
        """Average precision in [0, 1], or NaN where there is nothing to find.

        Args:
            iou_thr: IoU threshold; 0: the mean over 0.50:0.05:0.95.
            size: Of :data:`SIZES`: COCO's limits are areas of 32² and 96² pixels.
            label: Class; -1: the mean over all.
        """
        values = self._precision[self._thresholds(iou_thr), :, :, SIZES.index(size)]
        return _mean(values if label < 0 else values[:, :, label])

    def recall(self, size: str = 'all', label: int = -1) -> float:
        """Average over IoU thresholds of the highest recall, or NaN where there is nothing to find."""
        values = self._recall[:, :, SIZES.index(size)]
        return _mean(values if label < 0 else values[:, label])

    def precision_curve(self, iou_thr: float = 0.5, label: int = -1) -> np.ndarray:
        """Precision at the recalls 0, 0.01, ... 1, shape (101, ); NaN where there is nothing to find."""
        values = self._precision[self._thresholds(iou_thr)][0, :, :, 0]
        if label >= 0:
            return np.where(values[:, label] < 0, np.nan, values[:, label])
        present = (values >= 0).all(axis=0)
        return values[:, present].mean(axis=1) if present.any() else np.full(len(values), np.nan)

    @staticmethod
    def _thresholds(iou_thr: float) -> np.ndarray:
        return np.flatnonzero(np.isclose(IOU_THRS, iou_thr)) if iou_thr else np.arange(len(IOU_THRS))


def evaluate(
    truth: GroundTruth,
    results: Sequence[ImageResult],
    iou_type: str,
    use_mask_scores: bool,
    iou_thrs: np.ndarray = IOU_THRS,
):
    """Match predictions to annotated objects as COCO does.

    Args:
        truth: Annotated objects.
        results: Predictions.
        iou_type: ``'segm'`` or ``'bbox'``.
        use_mask_scores: Whether to rank by mask scores, where there are any.
        iou_thrs: IoU thresholds.

    Returns:
        The ``COCOeval`` after its ``evaluate()``, or None if there is no prediction at all.
    """
    detections = []
    for result in results:
        scores = result.ranks if use_mask_scores else result.scores
        for i, label in enumerate(result.labels):
            found = dict(image_id=result.image_id, category_id=truth.cat_ids[label], score=float(scores[i]))
            if iou_type == 'segm':
                found['segmentation'] = result.masks[i]
            else:
                x1, y1, x2, y2 = result.bboxes[i].tolist()
                found['bbox'] = [x1, y1, x2 - x1, y2 - y1]
            detections.append(found)
    if not detections:
        return None
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth.coco, truth.coco.loadRes(detections), iou_type)
        evaluation.params.catIds = truth.cat_ids
        evaluation.params.imgIds = [result.image_id for result in results]
        evaluation.params.maxDets = [1000]
        evaluation.params.iouThrs = iou_thrs
        evaluation.evaluate()
    return evaluation


def _mean(values: np.ndarray) -> float:
    values = values[values > -1]
    return float(values.mean()) if values.size else float('nan')
