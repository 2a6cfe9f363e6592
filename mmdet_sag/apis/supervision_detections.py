from collections.abc import Sequence
from typing import Any

import numpy as np
from mmdet.structures import DetDataSample

from ..errors import InputError


def to_supervision(sample: DetDataSample, classes: Sequence[str] = ()) -> Any:
    """Turn a prediction into the detections of the package ``supervision``, for its trackers, zones and annotators.

    With ``DetInferencer``::

        inferencer = DetInferencer('config.py', 'model.pth')
        (sample,) = inferencer('image.jpg', return_datasamples=True)['predictions']
        detections = to_supervision(sample, inferencer.model.dataset_meta['classes'])

    Args:
        sample: Prediction of an image.
        classes: Class names; without them, detections have numbers alone.

    Returns:
        ``supervision.Detections`` with boxes, masks where the model has them, scores, labels and, under ``data``,
        ``class_name`` and ``mask_score``.

    Raises:
        InputError: The package is not installed.
    """
    try:
        import supervision
    except ImportError as e:
        raise InputError('the package supervision is not installed: pip install supervision') from e
    pred = sample.pred_instances.cpu()
    labels = np.asarray(pred.labels, dtype=int)
    data = {}
    if classes:
        data['class_name'] = np.array([classes[label] for label in labels], dtype=str)
    if 'mask_scores' in pred:
        data['mask_score'] = np.asarray(pred.mask_scores, dtype=np.float32)
    masks = None
    if 'masks' in pred and len(pred):
        masks = pred.masks.numpy().astype(bool)
    return supervision.Detections(
        xyxy=np.asarray(pred.bboxes, dtype=np.float32).reshape(-1, 4),
        mask=masks,
        confidence=np.asarray(pred.scores, dtype=np.float32),
        class_id=labels,
        data=data,
    )
