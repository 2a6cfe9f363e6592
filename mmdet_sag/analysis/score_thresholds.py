from collections.abc import Sequence

import numpy as np

from .coco_accuracy import evaluate
from .ground_truth import GroundTruth
from .image_result import ImageResult

THRESHOLDS = np.linspace(0, 1, 101)


class ScoreThresholds:
    """Precision and recall of the detections above a score, for each score and class.

    A mask counts as right with an IoU of at least 0.5 with an object of its class that no better one has. The score is
    that of the class, by which demos and visualizers choose what they draw.

    Args:
        truth: Annotated objects.
        results: Predictions.
    """

    def __init__(self, truth: GroundTruth, results: Sequence[ImageResult]) -> None:
        num_classes = len(truth.classes)
        right, wrong = (np.zeros((num_classes, len(THRESHOLDS)), dtype=np.int64) for _ in range(2))
        objects = np.zeros(num_classes, dtype=np.int64)
        for result in results:
            labels = truth.labels(result.image_id)[~truth.crowds(result.image_id)]
            objects += np.bincount(labels, minlength=num_classes)
        evaluation = evaluate(truth, results, 'segm', use_mask_scores=False, iou_thrs=np.array([0.5]))
        num_images = len(results)
        for label in range(num_classes) if evaluation else ():
            # evalImgs is ordered by class, then by area range, of which the first is that of all sizes.
            start = label * len(evaluation.params.areaRng) * num_images
            images = [image for image in evaluation.evalImgs[start : start + num_images] if image is not None]
            if not images:
                continue
            scores = np.concatenate([image['dtScores'] for image in images])
            matched = np.concatenate([image['dtMatches'][0] for image in images]) > 0
            counted = ~np.concatenate([image['dtIgnore'][0] for image in images]).astype(bool)
            for kind, chosen in ((right, matched & counted), (wrong, ~matched & counted)):
                ordered = np.sort(scores[chosen])
                kind[label] = len(ordered) - np.searchsorted(ordered, THRESHOLDS - 1e-9)
        self.right, self.wrong, self.objects = right, wrong, objects

    def precision(self, label: int = -1) -> np.ndarray:
        """Share of the detections that are right, at each of :data:`THRESHOLDS`; NaN where there are none."""
        right, wrong = self._chosen(self.right, label), self._chosen(self.wrong, label)
        return _ratio(right, right + wrong)

    def recall(self, label: int = -1) -> np.ndarray:
        """Share of the objects that are found, at each of :data:`THRESHOLDS`; NaN where there are none."""
        objects = self.objects.sum() if label < 0 else self.objects[label]
        right = self._chosen(self.right, label)
        return _ratio(right, np.full_like(right, objects))

    def f1(self, label: int = -1) -> np.ndarray:
        """Harmonic mean of precision and recall, at each of :data:`THRESHOLDS`."""
        right, wrong = self._chosen(self.right, label), self._chosen(self.wrong, label)
        objects = self.objects.sum() if label < 0 else self.objects[label]
        return _ratio(2 * right, right + wrong + objects)

    def best(self, label: int = -1) -> float:
        """The threshold with the highest F1; of several equal ones the middle; NaN where nothing was found."""
        values = np.nan_to_num(self.f1(label))
        if values.max() == 0:
            return float('nan')
        best = np.flatnonzero(values >= values.max() - 1e-12)
        # The run of neighbours that the first of them starts: the middle of two far apart may be bad.
        run = best[: np.argmax(np.append(np.diff(best) > 1, True)) + 1]
        return float(THRESHOLDS[run[len(run) // 2]])

    @staticmethod
    def _chosen(counts: np.ndarray, label: int) -> np.ndarray:
        return counts.sum(axis=0) if label < 0 else counts[label]


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
