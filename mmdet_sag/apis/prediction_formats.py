"""Predictions in the formats of COCO and of the package ``supervision``."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_utils
from mmdet.structures import DetDataSample
from mmdet.structures.mask import encode_mask_results, mask2bbox
from mmengine.structures import InstanceData

from ..errors import InputError
from ..fileio import atomic_write
from ..structures.mask import RLEMasks


def add_boxes(pred: InstanceData) -> None:
    """Give detections whose boxes have no extent, such as SOLO's, those of their masks."""
    if len(pred) and 'masks' in pred and not pred.bboxes.any():
        pred.bboxes = mask2bbox(pred.masks)


class CocoPredictions:
    """Predictions in a file in COCO's format; the id of a category is its label + 1.

    Labelling tools can read it like an annotation file. Each annotation also has a ``score``, of ``score_thr`` or more,
    and a ``mask_score`` if the model has one. pycocotools' ``loadRes`` takes its ``annotations``.
    """

    def __init__(self, classes: tuple[str, ...], score_thr: float = 0.0) -> None:
        self.score_thr = score_thr
        self.images: list[dict] = []
        self.annotations: list[dict] = []
        self.categories = [dict(id=i, name=name) for i, name in enumerate(classes, 1)]

    def add(self, file_name: str, sample: DetDataSample, height: int, width: int) -> None:
        """Add the prediction of an image of this name, height and width in pixels."""
        image_id = len(self.images) + 1
        self.images.append(dict(id=image_id, file_name=file_name, height=height, width=width))
        if 'pred_instances' not in sample:
            return
        pred = sample.pred_instances.cpu()
        pred = pred[pred.scores >= self.score_thr]
        masks = None
        if 'masks' in pred:
            encoded = isinstance(pred.masks, RLEMasks)
            masks = list(pred.masks) if encoded else encode_mask_results(pred.masks.numpy())
        for i, (x1, y1, x2, y2) in enumerate(pred.bboxes.tolist()):
            annotation = dict(
                id=len(self.annotations) + 1,
                image_id=image_id,
                category_id=int(pred.labels[i]) + 1,
                bbox=[x1, y1, x2 - x1, y2 - y1],
                area=(x2 - x1) * (y2 - y1),
                iscrowd=0,
                score=float(pred.scores[i]),
            )
            if masks is not None:
                annotation['segmentation'] = dict(size=list(masks[i]['size']), counts=masks[i]['counts'].decode())
                annotation['area'] = float(mask_utils.area(dict(masks[i])))
            if 'mask_scores' in pred:
                annotation['mask_score'] = float(pred.mask_scores[i])
            self.annotations.append(annotation)

    def write(self, path: str | Path) -> None:
        """Write the file."""
        content = dict(images=self.images, annotations=self.annotations, categories=self.categories)
        with atomic_write(path, 'w') as file:
            json.dump(content, file)


def to_supervision(sample: DetDataSample, classes: Sequence[str] = ()) -> Any:
    """Convert a prediction to the detections of ``supervision``, for its trackers, zones and annotators.

    With ``DetInferencer``::

        inferencer = DetInferencer('config.py', 'model.pth')
        (sample,) = inferencer('image.jpg', return_datasamples=True)['predictions']
        detections = to_supervision(sample, inferencer.model.dataset_meta['classes'])

    They have boxes, masks if the model predicts them, scores, labels and, in ``data``, ``mask_score`` and, if class
    names are given, ``class_name``.

    Raises:
        InputError: The package is not installed.
    """
    try:
        import supervision
    except ImportError as e:
        raise InputError("the package supervision is not installed: pip install 'mmdet_sag[video]'") from e
    pred = sample.pred_instances.cpu()
    add_boxes(pred)
    labels = np.asarray(pred.labels, dtype=int)
    data = {}
    if classes:
        data['class_name'] = np.array([classes[label] for label in labels], dtype=str)
    if 'mask_scores' in pred:
        data['mask_score'] = np.asarray(pred.mask_scores, dtype=np.float32)
    return supervision.Detections(
        xyxy=np.asarray(pred.bboxes, dtype=np.float32).reshape(-1, 4),
        mask=pred.masks.numpy().astype(bool) if 'masks' in pred and len(pred) else None,
        confidence=np.asarray(pred.scores, dtype=np.float32),
        class_id=labels,
        data=data,
    )
