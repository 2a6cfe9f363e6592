import json
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_utils
from mmdet.structures import DetDataSample
from mmdet.structures.mask import encode_mask_results

from ..fileio import atomic_write
from ..structures.mask import RLEMasks


class CocoPredictions:
    """Predictions of any images in COCO's format.

    The file has ``images``, ``categories`` and ``annotations``, as annotation files have, so that labelling tools read
    it; each annotation has a ``score`` too, and, where the model has one, a ``mask_score``. ``annotations`` alone is
    what pycocotools' ``loadRes`` takes.

    Args:
        classes: Class names; the id of a category is its label + 1.
        score_thr: Lowest score that is kept.
    """

    def __init__(self, classes: tuple[str, ...], score_thr: float = 0.0) -> None:
        self.score_thr = score_thr
        self.images: list[dict] = []
        self.annotations: list[dict] = []
        self.categories = [dict(id=i, name=name) for i, name in enumerate(classes, 1)]

    def add(self, file_name: str, sample: DetDataSample, height: int, width: int) -> None:
        """Add the prediction of an image.

        Args:
            file_name: What the file calls the image.
            sample: Its prediction.
            height: Height of the image in pixels.
            width: Width of the image in pixels.
        """
        image_id = len(self.images) + 1
        self.images.append(dict(id=image_id, file_name=file_name, height=height, width=width))
        if 'pred_instances' not in sample:
            return
        pred = sample.pred_instances.cpu()
        pred = pred[pred.scores >= self.score_thr]
        boxes = np.asarray(pred.bboxes, dtype=np.float64)
        masks = None
        if 'masks' in pred:
            encoded = isinstance(pred.masks, RLEMasks)
            masks = list(pred.masks) if encoded else encode_mask_results(pred.masks.numpy())
        for i, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
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
