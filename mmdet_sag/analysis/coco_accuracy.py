import contextlib
import io
from collections.abc import Sequence

import numpy as np
from mmdet.datasets.api_wrappers import COCO, COCOeval

from ..evaluation.boundary_coco_eval import BoundaryCOCOeval
from .ground_truth import GroundTruth
from .image_results import ImageResult

SIZES = ('all', 'small', 'medium', 'large')
IOU_THRS = np.linspace(0.5, 0.95, 10)
THRESHOLDS = np.linspace(0, 1, 101)


class CocoAccuracy:
    """COCO's average precision and precision-recall curves, by class and size of the objects.

    The average over classes equals the AP of :class:`mmdet_sag.evaluation.UnroundedCocoMetric`. ``iou_type`` is
    ``'segm'``, ``'boundary'`` or ``'bbox'``; only the images of ``results`` count.
    """

    def __init__(self, truth: GroundTruth, results: Sequence[ImageResult], iou_type: str) -> None:
        evaluation = _evaluate(truth, results, iou_type, use_mask_scores=iou_type != 'bbox')
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.accumulate()
        self._precision = evaluation.eval['precision'][..., -1]
        self._recall = evaluation.eval['recall'][..., -1]

    def ap(self, iou_thr: float = 0.0, size: str = 'all', label: int = -1) -> float:
        """Return average precision in [0, 1], or NaN if there are no objects.

        ``iou_thr`` 0 is the mean over 0.50:0.05:0.95, ``label`` -1 that over all classes. COCO's sizes are areas, with
        limits of 32² and 96² pixels.
        """
        values = self._precision[self._thresholds(iou_thr), :, :, SIZES.index(size)]
        return _mean(values if label < 0 else values[:, :, label])

    def recall(self, size: str = 'all', label: int = -1) -> float:
        """Return the highest recall, averaged over IoU thresholds, or NaN if there are no objects."""
        values = self._recall[:, :, SIZES.index(size)]
        return _mean(values if label < 0 else values[:, label])

    def precision_curve(self, iou_thr: float = 0.5, label: int = -1) -> np.ndarray:
        """Return precision at the recalls 0, 0.01, ... 1, shape (101, ); NaN if there are no objects."""
        values = self._precision[self._thresholds(iou_thr)][0, :, :, 0]
        values = values if label < 0 else values[:, [label]]
        present = (values >= 0).all(axis=0)
        return values[:, present].mean(axis=1) if present.any() else np.full(len(values), np.nan)

    @staticmethod
    def _thresholds(iou_thr: float) -> np.ndarray:
        return np.flatnonzero(np.isclose(IOU_THRS, iou_thr)) if iou_thr else np.arange(len(IOU_THRS))


class ScoreThresholds:
    """Precision and recall of the detections above a class score, for each score and class.

    A detection is right if it has an IoU of at least 0.5 with an object of its class that no better one has, by
    :attr:`GroundTruth.iou_type`.

    Attributes:
        right, wrong: Such detections at each of :data:`THRESHOLDS`, shape (num_classes, 101).
        objects: Number of objects, shape (num_classes, ).
    """

    def __init__(self, truth: GroundTruth, results: Sequence[ImageResult]) -> None:
        num_classes, num_images = len(truth.classes), len(results)
        self.right, self.wrong = np.zeros((2, num_classes, len(THRESHOLDS)), dtype=np.int64)
        self.objects = np.zeros(num_classes, dtype=np.int64)
        for result in results:
            labels = truth.labels(result.image_id)[~truth.crowds(result.image_id)]
            self.objects += np.bincount(labels, minlength=num_classes)
        evaluation = _evaluate(truth, results, truth.iou_type, use_mask_scores=False, iou_thrs=np.array([0.5]))
        for label in range(num_classes):
            # evalImgs is ordered by class, then by area range, the first of which is all sizes.
            start = label * len(evaluation.params.areaRng) * num_images
            images = [image for image in evaluation.evalImgs[start : start + num_images] if image is not None]
            if not images:
                continue
            scores = np.concatenate([image['dtScores'] for image in images])
            matched = np.concatenate([image['dtMatches'][0] for image in images]) > 0
            counted = ~np.concatenate([image['dtIgnore'][0] for image in images]).astype(bool)
            for counts, chosen in ((self.right, matched & counted), (self.wrong, ~matched & counted)):
                ordered = np.sort(scores[chosen])
                counts[label] = len(ordered) - np.searchsorted(ordered, THRESHOLDS - 1e-9)

    def precision(self, label: int = -1) -> np.ndarray:
        """Return the share of right detections at each of :data:`THRESHOLDS`; NaN if there are no detections."""
        right, wrong, _ = self.counts(label)
        return _ratio(right, right + wrong)

    def recall(self, label: int = -1) -> np.ndarray:
        """Return the share of objects found at each of :data:`THRESHOLDS`; NaN if there are no objects."""
        right, _, objects = self.counts(label)
        return _ratio(right, np.full_like(right, objects))

    def f1(self, label: int = -1) -> np.ndarray:
        """Return the harmonic mean of precision and recall at each of :data:`THRESHOLDS`."""
        right, wrong, objects = self.counts(label)
        return _ratio(2 * right, right + wrong + objects)

    def best(self, label: int = -1) -> float:
        """Return the threshold with the highest F1, the middle one of several; NaN if no detection is right."""
        values = np.nan_to_num(self.f1(label))
        if values.max() == 0:
            return float('nan')
        best = np.flatnonzero(values >= values.max() - 1e-12)
        # Only the first run of neighbours: the middle of two thresholds far apart may be bad.
        run = best[: np.argmax(np.append(np.diff(best) > 1, True)) + 1]
        return float(THRESHOLDS[run[len(run) // 2]])

    def counts(self, label: int = -1) -> tuple[np.ndarray, np.ndarray, int]:
        """Return right and wrong detections at each of :data:`THRESHOLDS`, and objects, of a class or (-1) of all."""
        counts = (self.right, self.wrong, self.objects)
        right, wrong, objects = (values.sum(axis=0) if label < 0 else values[label] for values in counts)
        return right, wrong, int(objects)


def _evaluate(
    truth: GroundTruth,
    results: Sequence[ImageResult],
    iou_type: str,
    use_mask_scores: bool,
    iou_thrs: np.ndarray = IOU_THRS,
) -> COCOeval:
    """Match predictions with annotated objects as COCO does, ranked by mask scores or class scores."""
    detections = []
    for result in results:
        scores = result.ranks if use_mask_scores else result.scores
        for i, label in enumerate(result.labels):
            detection = dict(image_id=result.image_id, category_id=truth.cat_ids[label], score=float(scores[i]))
            if iou_type != 'bbox':
                detection['segmentation'] = result.masks[i]
            else:
                x1, y1, x2, y2 = result.bboxes[i].tolist()
                detection['bbox'] = [x1, y1, x2 - x1, y2 - y1]
            detections.append(detection)
    with contextlib.redirect_stdout(io.StringIO()):
        # pycocotools reads no empty results, but evaluates an empty data set.
        found = truth.coco.loadRes(detections) if detections else COCO()
        if iou_type == 'boundary':
            evaluation = BoundaryCOCOeval(truth.coco, found)
        else:
            evaluation = COCOeval(truth.coco, found, iou_type)
        evaluation.params.catIds = truth.cat_ids
        evaluation.params.imgIds = [result.image_id for result in results]
        evaluation.params.maxDets = [1000]
        evaluation.params.iouThrs = iou_thrs
        evaluation.evaluate()
    return evaluation


def _mean(values: np.ndarray) -> float:
    values = values[values > -1]
    return float(values.mean()) if values.size else float('nan')


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
