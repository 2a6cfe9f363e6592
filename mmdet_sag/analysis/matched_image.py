from enum import Enum

import numpy as np
import pycocotools.mask as mask_utils

from .ground_truth import GroundTruth
from .image_result import ImageResult


class Outcome(Enum):
    """What became of a detection; the value is what the report calls it."""

    RIGHT = 'right'
    WRONG_CLASS = 'wrong class'
    INACCURATE = 'mask inaccurate'
    DUPLICATE = 'found twice'
    NOTHING_THERE = 'nothing there'
    IN_CROWD = 'in a crowd region'


class MatchedImage:
    """One image's detections above a score, each with the object that it belongs to.

    Detections choose in the order of their scores, each the object of its class with the highest mask IoU of at least
    0.5 that is still free. What remains is told apart as in `TIDE <https://arxiv.org/abs/2008.08115>`_: of another
    class (IoU of at least 0.5 with an object of it), a second time found, inaccurate (IoU of 0.1 to 0.5 with an object
    of its class), or nothing there.

    Args:
        truth: Annotated objects.
        result: Predictions of the image.
        score_thr: Lowest score of the detections that count.

    Attributes:
        result: The predictions.
        detections: Indices of the detections that count, the highest score first, shape (n, ).
        outcomes: Their :class:`Outcome`.
        partners: Index of the annotation that each belongs to or is confused with, or -1, shape (n, ).
        ious: IoU with that annotation, or the highest with any, shape (n, ).
        best_ious: Highest IoU of each detection, also those that do not count, with an object of its class.
        missed: Indices of annotations that no detection belongs to, of any class.
    """

    def __init__(self, truth: GroundTruth, result: ImageResult, score_thr: float) -> None:
        self.result = result
        self.gt_labels, crowds = truth.labels(result.image_id), truth.crowds(result.image_id)
        num_detections, num_objects = len(result.labels), len(self.gt_labels)
        ious = np.zeros((num_detections, num_objects))
        if num_detections and num_objects:
            # Towards a crowd region, pycocotools divides by the detection's area.
            ious = mask_utils.iou(result.masks, truth.masks(result.image_id), crowds.astype(np.uint8).tolist())
        objects = np.where(crowds, 0, ious)
        same_class = result.labels[:, None] == self.gt_labels[None]
        self.best_ious = np.where(same_class, objects, 0).max(axis=1, initial=0)

        self.detections = np.flatnonzero(result.scores >= score_thr)
        free = ~crowds
        self.partners = np.full(len(self.detections), -1)
        self.ious = objects[self.detections].max(axis=1, initial=0)
        self.outcomes = [Outcome.NOTHING_THERE] * len(self.detections)
        for i, detection in enumerate(self.detections):
            candidates = np.where(same_class[detection] & free, objects[detection], 0)
            if candidates.max(initial=0) >= 0.5:
                self._settle(i, Outcome.RIGHT, candidates)
                free[self.partners[i]] = False
        for i, detection in enumerate(self.detections):
            if self.partners[i] < 0:
                self._explain(i, ious[detection], objects[detection], same_class[detection], crowds, free)
        confused = [partner for partner, o in zip(self.partners, self.outcomes) if o is Outcome.WRONG_CLASS]
        self.missed = [int(i) for i in np.flatnonzero(free) if i not in confused]
        # Of an object that was found under its own name, another name is a detection too many.
        self.objects_left = free

    @property
    def quality(self) -> float:
        """Sum of the IoUs of what is right, by right ones and half of the wrong and missed: PQ; NaN of an empty image.

        Source: `Panoptic Segmentation <https://arxiv.org/abs/1801.00868>`_, Section 4.
        """
        right = sum(iou for iou, outcome in zip(self.ious, self.outcomes) if outcome is Outcome.RIGHT)
        num_right = sum(outcome is Outcome.RIGHT for outcome in self.outcomes)
        num_wrong = sum(outcome not in (Outcome.RIGHT, Outcome.IN_CROWD) for outcome in self.outcomes)
        whole = num_right + 0.5 * num_wrong + 0.5 * int(self.objects_left.sum())
        return float(right / whole) if whole else float('nan')

    def _settle(self, i: int, outcome: Outcome, ious: np.ndarray) -> None:
        self.outcomes[i] = outcome
        self.partners[i] = ious.argmax()
        self.ious[i] = ious.max()

    def _explain(
        self, i: int, ious: np.ndarray, objects: np.ndarray, same: np.ndarray, crowds: np.ndarray, free: np.ndarray
    ) -> None:
        if np.where(crowds & same, ious, 0).max(initial=0) >= 0.5:
            self.outcomes[i] = Outcome.IN_CROWD
        elif objects.max(initial=0) >= 0.5:
            other, unfound = np.where(same, 0, objects), np.where(same | ~free, 0, objects)
            # An object that nothing else belongs to explains more than one that was found.
            if unfound.max() >= 0.5:
                self._settle(i, Outcome.WRONG_CLASS, unfound)
            elif np.where(same, objects, 0).max() >= 0.5:
                self._settle(i, Outcome.DUPLICATE, np.where(same, objects, 0))
            else:
                self._settle(i, Outcome.WRONG_CLASS, other)
        elif np.where(same, objects, 0).max(initial=0) >= 0.1:
            self._settle(i, Outcome.INACCURATE, np.where(same, objects, 0))
