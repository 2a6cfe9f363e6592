import logging
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from mmengine.evaluator import BaseMetric, Evaluator

from ..errors import InputError
from .coco_accuracy import THRESHOLDS


@dataclass(frozen=True)
class SegmentedImage:
    """What a test gave for an image.

    Attributes:
        path: Path of its file.
        figures: Those of the evaluator, of this image alone; none if it cannot compute them.
        confusion: Pixels by annotated and predicted class, shape (C, C); those without an annotated class do not count.
        above: Pixels whose probability of the second class is above each of :data:`THRESHOLDS`, of the first and of the
            second of two annotated classes, shape (2, 101); None of other numbers of classes.
        png: Annotated and predicted classes, as the first two channels of a PNG file's content.
    """

    path: str
    figures: dict[str, float]
    confusion: np.ndarray
    above: np.ndarray | None
    png: bytes

    def maps(self) -> tuple[np.ndarray, np.ndarray]:
        """Annotated and predicted class of each pixel, each (H, W), uint8."""
        labels, predicted, _ = cv2.split(cv2.imdecode(np.frombuffer(self.png, np.uint8), cv2.IMREAD_COLOR))
        return labels, predicted

    @property
    def f1(self) -> float:
        """F1 of the second of two classes, or the mean of more that are annotated or predicted; NaN without any."""
        scores = class_scores(self.confusion)['F1']
        scores = scores[1:] if len(scores) == 2 else scores[~np.isnan(scores)]
        return float(scores.mean()) if len(scores) else float('nan')


class SegmentationResults(BaseMetric):
    """Collects ``images``, a list of :class:`SegmentedImage`, in a test of MMSegmentation.

    Args:
        evaluator: Computes the figures of one image.
        num_classes: Number of classes.
    """

    default_prefix = 'pixels'

    def __init__(self, evaluator: Evaluator, num_classes: int) -> None:
        super().__init__()
        self.evaluator, self.num_classes = evaluator, num_classes
        self.images: list[SegmentedImage] = []

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Collect what a batch gave.

        Raises:
            InputError: It has no labels.
        """
        for sample in data_samples:
            path = sample['img_path']
            if 'gt_sem_seg' not in sample:
                raise InputError(f'{path}: the test pipeline loads no labels, add LoadAnnotations before PackSegInputs')
            labels, predicted = (
                sample[key]['data'].squeeze(0).cpu().numpy().astype(np.uint8) for key in ('gt_sem_seg', 'pred_sem_seg')
            )
            counts = labels < self.num_classes
            pairs = labels[counts].astype(np.int64) * self.num_classes + predicted[counts]
            confusion = np.bincount(pairs, minlength=self.num_classes**2).reshape(self.num_classes, -1)
            above = None
            if self.num_classes == 2:
                # Of one channel, MMSegmentation has made a probability.
                logits = sample['seg_logits']['data'].float().cpu()
                probability = (logits.softmax(dim=0)[1] if len(logits) == 2 else logits[0]).numpy()[counts]
                above = np.stack([_above(probability[labels[counts] == label]) for label in (0, 1)])
            content = cv2.imencode('.png', np.dstack([labels, predicted, labels]))[1].tobytes()
            self.results.append(SegmentedImage(path, self._figures(data_batch, sample), confusion, above, content))

    def compute_metrics(self, results: list) -> dict:
        """Keep the images; there are no figures of their own."""
        self.images = results
        return {}

    def _figures(self, data_batch: dict, sample: dict) -> dict[str, float]:
        # Some metrics print a table each time.
        logging.disable(logging.INFO)
        try:
            self.evaluator.process(data_samples=[sample], data_batch=data_batch)
            return self.evaluator.evaluate(1)
        # Such as that the image has no vessels.
        except InputError:
            return {}
        finally:
            logging.disable(logging.NOTSET)
            for metric in self.evaluator.metrics:
                metric.results.clear()


def class_scores(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Scores of each class by name, shape (C, ), from pixels by annotated and predicted class; NaN where undefined."""
    right, labelled, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    with np.errstate(invalid='ignore'):
        return dict(
            precision=right / predicted,
            recall=right / labelled,
            F1=2 * right / (labelled + predicted),
            IoU=right / (labelled + predicted - right),
        )


def _above(probability: np.ndarray) -> np.ndarray:
    """Number of probabilities above each of :data:`THRESHOLDS`."""
    return len(probability) - np.searchsorted(np.sort(probability), THRESHOLDS.astype(np.float32), side='right')
