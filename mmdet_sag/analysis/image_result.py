from pathlib import Path
from typing import NamedTuple

import numpy as np
from mmengine.fileio import load

from ..errors import InputError


class ImageResult(NamedTuple):
    """What a model found in one image, the highest score first.

    Attributes:
        image_id: Id of the image in the annotation file.
        bboxes: Boxes, xyxy in pixels, shape (n, 4).
        scores: Class scores, shape (n, ).
        labels: Labels, shape (n, ).
        masks: n masks in COCO's run-length encoding.
        mask_scores: Scores by which masks are ranked, shape (n, ), or None where the model has none.
    """

    image_id: int
    bboxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: list
    mask_scores: np.ndarray | None

    @property
    def ranks(self) -> np.ndarray:
        """The scores that masks are ranked by, shape (n, )."""
        return self.scores if self.mask_scores is None else self.mask_scores


def load_results(path: str | Path) -> list[ImageResult]:
    """Read the predictions that ``tools/test.py --out`` writes (``DumpDetResults``, ``DumpRLEResults``).

    A pickle can run code when it is read: open none of unknown origin.

    Args:
        path: A .pkl or .pickle file.

    Raises:
        InputError: It cannot be read, or holds something else.
    """
    if not Path(path).is_file():
        raise InputError(f'results {path} do not exist: make them with tools/test.py --out')
    try:
        samples = load(str(path))
    # A pickle can fail in every way.
    except Exception as e:
        raise InputError(f'{path}: is damaged or no pickle; make it again with tools/test.py --out') from e
    remedy = 'give a file that tools/test.py --out made of an instance segmentation model'
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
        results.append(
            ImageResult(
                image_id=sample['img_id'],
                bboxes=np.asarray(pred['bboxes'], dtype=np.float64).reshape(-1, 4)[order],
                scores=np.asarray(pred['scores'], dtype=np.float64)[order],
                labels=np.asarray(pred['labels'])[order],
                masks=[pred['masks'][i] for i in order],
                mask_scores=None if mask_scores is None else np.asarray(mask_scores, dtype=np.float64)[order],
            )
        )
    return results
