from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pycocotools.mask as mask_utils
from mmengine.fileio import load

from ..errors import InputError
from .ground_truth import GroundTruth


class ImageResult(NamedTuple):
    """The predictions of a model for one image, the highest score first.

    Boxes (n, 4) are xyxy in pixels, scores, labels and mask scores have the shape (n, ), and masks are in COCO's
    run-length encoding. ``mask_scores`` is None if the model has none.
    """

    image_id: int
    bboxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: list
    mask_scores: np.ndarray | None

    @property
    def ranks(self) -> np.ndarray:
        """Scores by which masks are ranked, shape (n, )."""
        return self.scores if self.mask_scores is None else self.mask_scores


def load_results(path: str | Path) -> list[ImageResult]:
    """Read the predictions that ``mmdet-sag test --out`` writes (``DumpDetResults``, ``DumpRLEResults``).

    Reading a pickle can run code in it: do not open files of unknown origin.

    Raises:
        InputError: The file cannot be read, or holds something else.
    """
    if not Path(path).is_file():
        raise InputError(f'results {path} do not exist: make them with mmdet-sag test --out')
    try:
        samples = load(str(path))
    # Unpickling can raise any exception.
    except Exception as e:
        raise InputError(f'{path}: is damaged or no pickle; make it again with mmdet-sag test --out') from e
    remedy = 'give a file that mmdet-sag test --out made of an instance segmentation model'
    if not isinstance(samples, list) or not samples or not all(isinstance(sample, dict) for sample in samples):
        raise InputError(f'{path}: holds no predictions; {remedy}')
    results = []
    for sample in samples:
        pred = sample.get('pred_instances')
        if pred is None or 'img_id' not in sample or 'masks' not in pred:
            what = 'pred_instances.masks' if 'img_id' in sample else 'img_id'
            raise InputError(f'{path}: its predictions have no {what}; {remedy}')
        order = np.argsort(-np.asarray(pred['scores']), kind='stable')
        mask_scores = pred.get('mask_scores')
        bboxes = np.asarray(pred['bboxes'], dtype=np.float64).reshape(-1, 4)
        if len(bboxes) and not bboxes.any():
            # SOLO's have no extent.
            x, y, width, height = mask_utils.toBbox(pred['masks']).T
            bboxes = np.stack([x, y, x + width, y + height], axis=1)
        results.append(
            ImageResult(
                image_id=sample['img_id'],
                bboxes=bboxes[order],
                scores=np.asarray(pred['scores'], dtype=np.float64)[order],
                labels=np.asarray(pred['labels'])[order],
                masks=[pred['masks'][i] for i in order],
                mask_scores=None if mask_scores is None else np.asarray(mask_scores, dtype=np.float64)[order],
            )
        )
    return results


class Outcome(Enum):
    """How a detection compares with the ground truth; the value is its name in the report."""

    RIGHT = 'right'
    WRONG_CLASS = 'wrong class'
    INACCURATE = 'inaccurate'
    DUPLICATE = 'found twice'
    NOTHING_THERE = 'nothing there'
    IN_CROWD = 'in a crowd region'


class MatchedImage:
    """The detections of an image above a score, matched with annotated objects.

    In the order of their scores, detections take the free object of their class with the highest IoU, if it is at least
    0.5; IoUs are those of :meth:`GroundTruth.overlaps`. The others are, as in `TIDE
    <https://arxiv.org/abs/2008.08115>`_, of the wrong class (IoU of at least 0.5 with an object of another class),
    duplicates, inaccurate (IoU of 0.1 to 0.5 with an object of their class), or nothing is there.

    Attributes:
        detections: Indices of the n detections that count, the highest score first.
        outcomes: Their :class:`Outcome`.
        partners: Index of the annotation that each is matched or confused with, or -1, shape (n, ).
        ious: IoU with that annotation, or the highest with any, shape (n, ).
        best_ious: Highest IoU with an object of the same class, for all detections of the image.
        missed: Indices of the objects without a right detection.
    """

    def __init__(self, truth: GroundTruth, result: ImageResult, score_thr: float) -> None:
        self.result = result
        self.gt_labels, crowds = truth.labels(result.image_id), truth.crowds(result.image_id)
        ious = truth.overlaps(result.image_id, result.bboxes, result.masks)
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
        self.missed = np.flatnonzero(free).tolist()

    @property
    def quality(self) -> float:
        """Panoptic quality of the image, or NaN if it has no objects and no detections.

        Source: `Panoptic Segmentation <https://arxiv.org/abs/1801.00868>`_, Section 4.
        """
        right = sum(iou for iou, outcome in zip(self.ious, self.outcomes) if outcome is Outcome.RIGHT)
        num_right = self.outcomes.count(Outcome.RIGHT)
        num_wrong = len(self.outcomes) - num_right - self.outcomes.count(Outcome.IN_CROWD)
        total = num_right + 0.5 * num_wrong + 0.5 * len(self.missed)
        return float(right / total) if total else float('nan')

    def _settle(self, i: int, outcome: Outcome, ious: np.ndarray) -> None:
        self.outcomes[i] = outcome
        self.partners[i] = ious.argmax()
        self.ious[i] = ious.max()

    def _explain(
        self, i: int, ious: np.ndarray, objects: np.ndarray, same: np.ndarray, crowds: np.ndarray, free: np.ndarray
    ) -> None:
        own = np.where(same, objects, 0)
        if np.where(crowds & same, ious, 0).max(initial=0) >= 0.5:
            self.outcomes[i] = Outcome.IN_CROWD
        elif objects.max(initial=0) >= 0.5:
            other, unfound = np.where(same, 0, objects), np.where(same | ~free, 0, objects)
            # An object without a detection explains more than one that was found.
            if unfound.max() >= 0.5:
                self._settle(i, Outcome.WRONG_CLASS, unfound)
            elif own.max() >= 0.5:
                self._settle(i, Outcome.DUPLICATE, own)
            else:
                self._settle(i, Outcome.WRONG_CLASS, other)
        elif own.max(initial=0) >= 0.1:
            self._settle(i, Outcome.INACCURATE, own)


def confusion_matrix(images: Iterable[MatchedImage], num_classes: int) -> np.ndarray:
    """Count objects by true class and detected class, shape (num_classes + 1, num_classes + 1).

    The last row counts detections without an object of their own, the last column objects without a detection. Each
    object counts once in the rows, each detection once in the columns.
    """
    counts = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    for image in images:
        taken = set()
        for detection, outcome, partner in zip(image.detections, image.outcomes, image.partners):
            if outcome is Outcome.IN_CROWD:
                continue
            # The first detection of an object under another name counts for the object, later ones are too many.
            confused = outcome is Outcome.WRONG_CLASS and partner in image.missed and partner not in taken
            row = num_classes
            if outcome is Outcome.RIGHT or confused:
                taken.add(partner)
                row = image.gt_labels[partner]
            counts[row, image.result.labels[detection]] += 1
        np.add.at(counts, (image.gt_labels[[i for i in image.missed if i not in taken]], num_classes), 1)
    return counts
