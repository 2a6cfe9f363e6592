from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric

from ...errors import InputError


@METRICS.register_module()
class VesselMetric(BaseMetric):
    """Sensitivity, specificity, accuracy, F1, MCC and AUC of a two-class segmentation, such as retinal vessels.

    All are shares, not per cent, over the pixels of all images together. Configs of MMSegmentation name it
    ``mmdet.VesselMetric``. The AUC, under the ROC curve, is exact: it takes the logits of every pixel.

    Args:
        field_of_view: What the figures ``fov_*``, of the field of view alone, count: within the convex hull of the
            largest region where a channel of the image is brighter than this number; or not black in the masks of this
            folder, ``01_test_mask.gif`` for ``01.png``. None: there are no such figures. Outside, everything is
            background that is easily found, which raises specificity, accuracy and AUC.
        ignore_index: Label of pixels that do not count.
        **kwargs: Options of :class:`mmengine.evaluator.BaseMetric`.

    Raises:
        InputError: The labels, or a field of view, do not fit or cannot be used.
    """

    default_prefix = 'vessel'

    def __init__(self, field_of_view: int | str | None = None, ignore_index: int = 255, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.field_of_view = field_of_view
        self.ignore_index = ignore_index

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Collect label, prediction, score and field of view of every pixel of a batch, ``data_samples``."""
        for sample in data_samples:
            label, predicted = (sample[key]['data'].squeeze(0).cpu().numpy() for key in ('gt_sem_seg', 'pred_sem_seg'))
            logits = sample['seg_logits']['data'].float().cpu().numpy()
            path = sample['img_path']
            inside = np.ones(predicted.shape, bool) if self.field_of_view is None else self._field_of_view(path)
            for what, found in (('labels', label), ('field of view', inside)):
                if found.shape != predicted.shape:
                    raise InputError(
                        f'VesselMetric: the {what} of {path} have {found.shape[1]}x{found.shape[0]} pixels, and the '
                        f'prediction {predicted.shape[1]}x{predicted.shape[0]}: in the test pipeline, LoadAnnotations '
                        'comes after Resize, and masks have the size of the images'
                    )
            counts = label != self.ignore_index
            score = logits[-1] - logits[0] if len(logits) > 1 else logits[0]
            self.results.append((label[counts] == 1, predicted[counts] == 1, score[counts], inside[counts]))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the figures from the pixels of all images."""
        truth, predicted, scores, inside = (np.concatenate(parts) for parts in zip(*results))
        figures = _figures(truth, predicted, scores)
        if self.field_of_view is not None:
            of_field = _figures(truth[inside], predicted[inside], scores[inside])
            figures.update({f'fov_{name}': value for name, value in of_field.items()})
        return figures

    def _field_of_view(self, path: str) -> np.ndarray:
        if isinstance(self.field_of_view, str):
            files = sorted(Path(self.field_of_view).glob(f'{Path(path).stem}[._]*'))
            if not files:
                raise InputError(
                    f"VesselMetric: the folder field_of_view='{self.field_of_view}' has no mask "
                    f'{Path(path).stem}.* or {Path(path).stem}_*: correct it, or give a brightness such as 20'
                )
            # OpenCV reads no GIF, which DRIVE's masks are.
            return mmcv.imread(files[0], 'grayscale', backend='pillow') > 0
        bright = (mmcv.imread(path).max(axis=2) > self.field_of_view).astype(np.uint8)
        contours, _ = cv2.findContours(bright, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        if not contours:
            raise InputError(f'VesselMetric: nothing in {path} is brighter than field_of_view={self.field_of_view}')
        hull = cv2.convexHull(max(contours, key=cv2.contourArea))
        return cv2.fillConvexPoly(np.zeros_like(bright), hull, 1).astype(bool)


def _figures(truth: np.ndarray, predicted: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    positive, negative = int(truth.sum()), int((~truth).sum())
    if not positive or not negative:
        raise InputError(
            f'VesselMetric: of {len(truth)} labelled pixels, {positive} are vessels: in label images, background is 0 '
            'and vessel 1, see configs/sa_unet/README.md'
        )
    tp, fp = int((truth & predicted).sum()), int((~truth & predicted).sum())
    fn, tn = positive - tp, negative - fp
    spread = sqrt((tp + fp) * (tn + fn) * positive * negative)
    # The share of pairs of a vessel and a background pixel that the scores order rightly; ties count half.
    background = np.sort(scores[~truth])
    lower, not_higher = (np.searchsorted(background, scores[truth], side) for side in ('left', 'right'))
    return dict(
        sensitivity=tp / positive,
        specificity=tn / negative,
        accuracy=(tp + tn) / len(truth),
        F1=2 * tp / (2 * tp + fp + fn),
        MCC=(tp * tn - fp * fn) / spread if spread else 0.0,
        AUC=float((lower + not_higher).mean() / 2 / negative),
    )
