import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmdet.datasets.api_wrappers import COCO, COCOeval
from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS
from mmengine.fileio import load
from mmengine.logging import MMLogger
from terminaltables import AsciiTable

from ...datasets.annotation_problems import is_countable_id
from ...errors import InputError
from ..boundary_coco_eval import BoundaryCOCOeval

# By key: the IoU threshold, or None for the mean over all, and the index of the range of areas.
STATS = {
    'mAP': (None, 0),
    'mAP_50': (0.5, 0),
    'mAP_75': (0.75, 0),
    'mAP_s': (None, 1),
    'mAP_m': (None, 2),
    'mAP_l': (None, 3),
}


def number_annotations(coco: COCO) -> None:
    """Give the annotations of a file new ids if COCOeval cannot count with theirs.

    It takes an object whose id is 0 for one that was not found, fails on texts, and counts an id that is used twice as
    one object. The entries themselves, which others may hold, are not changed.
    """
    annotations = coco.dataset.get('annotations', [])
    ids = [annotation['id'] for annotation in annotations]
    if len(set(ids)) == len(ids) and all(map(is_countable_id, ids)):
        return
    coco.dataset = dict(
        coco.dataset, annotations=[dict(annotation, id=number) for number, annotation in enumerate(annotations, 1)]
    )
    coco.createIndex()


@METRICS.register_module()
class UnroundedCocoMetric(CocoMetric):
    """COCO's box, mask and boundary AP in full precision, of one number of detections.

    :class:`mmdet.evaluation.CocoMetric` rounds AP to three digits, which hides small gains of fine-tuning. Its mAP
    counts 100 detections of an image and the other figures ``proposal_nums[2]``, so mAP is too low where there are more
    objects; here all count the largest of ``proposal_nums``. Models that return at most 100 detections, as those of the
    zoo, have COCO's figures. Annotation ids may be any (:func:`number_annotations`). Keys are the same. Masks are
    ranked by ``mask_scores`` if the model has them. With ``metric_items`` or proposals, MMDetection's class does the
    work.

    Args:
        ann_file: As in ``CocoMetric``.
        metric: As in ``CocoMetric``, or ``'boundary'``: mask AP by :class:`BoundaryCOCOeval`.
        iou_thrs: IoU thresholds, one or several. Default: 0.50:0.05:0.95. ``mAP_50`` and ``mAP_75`` are -1 without
            their threshold.
        **kwargs: As in ``CocoMetric``.
    """

    def __init__(
        self,
        ann_file: str | None = None,
        metric: str | Sequence[str] = 'bbox',
        iou_thrs: float | Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        metrics = [metric] if isinstance(metric, str) else list(metric)
        thresholds = None if iou_thrs is None else np.atleast_1d(np.asarray(iou_thrs, dtype=float))
        super().__init__(ann_file, [name for name in metrics if name != 'boundary'], iou_thrs=thresholds, **kwargs)
        self.metrics = metrics
        if 'boundary' in metrics and (self.metric_items or not self._computes_all()):
            raise InputError(
                "metric 'boundary' goes with 'bbox' and 'segm', without metric_items: leave the others out"
            )
        if self._coco_api is not None:
            number_annotations(self._coco_api)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute ``bbox_mAP``, ``segm_mAP_50`` etc. in [0, 1], or -1 without objects.

        With ``classwise`` there is also ``NAME_precision``, the mAP of each class for the last metric.
        """
        if self.format_only or self.metric_items or not self._computes_all():
            return super().compute_metrics(results)
        logger = MMLogger.get_current_instance()
        ground_truths, predictions = zip(*results)
        metrics = {}
        with tempfile.TemporaryDirectory() as folder:
            prefix = self.outfile_prefix or str(Path(folder) / 'results')
            if self._coco_api is None:
                self._coco_api = COCO(self.gt_to_coco_json(gt_dicts=ground_truths, outfile_prefix=prefix))
            if self.cat_ids is None:
                self.cat_ids = self._coco_api.get_cat_ids(cat_names=self.dataset_meta['classes'])
            if self.img_ids is None:
                self.img_ids = self._coco_api.get_img_ids()
            files = self.results2json(predictions, prefix)
            for metric in self.metrics:
                detections = load(files['segm' if metric == 'boundary' else metric])
                if not detections:
                    logger.warning(f'No detection at all: {metric} AP is 0.')
                    metrics.update({f'{metric}_{name}': 0.0 for name in STATS})
                    continue
                if metric != 'bbox':
                    # With a box, pycocotools uses its area as the mask's.
                    for detection in detections:
                        detection.pop('bbox')
                found = self._coco_api.loadRes(detections)
                if metric == 'boundary':
                    evaluation = BoundaryCOCOeval(self._coco_api, found)
                else:
                    evaluation = COCOeval(self._coco_api, found, metric)
                evaluation.params.catIds = self.cat_ids
                evaluation.params.imgIds = self.img_ids
                evaluation.params.maxDets = [max(self.proposal_nums)]
                evaluation.params.iouThrs = self.iou_thrs
                evaluation.evaluate()
                evaluation.accumulate()
                # (thresholds, recalls, classes, ranges of areas); -1: no object.
                precision = evaluation.eval['precision'][..., 0]
                metrics.update({f'{metric}_{name}': value for name, value in self._stats(precision).items()})
                if self.classwise:
                    metrics.update(self._classwise(precision, logger))
        return metrics

    def _computes_all(self) -> bool:
        return set(self.metrics) <= {'bbox', 'segm', 'boundary'}

    def fast_eval_recall(
        self,
        results: list[dict],
        proposal_nums: Sequence[int],
        iou_thrs: Sequence[float],
        logger: MMLogger | None = None,
    ) -> np.ndarray:
        """Compute the mean recall of boxes for each number of them, as MMDetection does for ``proposal_fast``.

        It makes an array of the overlaps of all images, which NumPy 1.24 refuses if their shapes differ: here each
        image has its own.
        """
        found = total = np.zeros(len(proposal_nums))
        image_ids = self.img_ids
        for result in results:
            annotations = self._coco_api.load_anns(self._coco_api.get_ann_ids(img_ids=[result['img_id']]))
            count = sum(not annotation.get('ignore', False) and not annotation['iscrowd'] for annotation in annotations)
            if count:
                self.img_ids = [result['img_id']]
                recall = super().fast_eval_recall([result], proposal_nums, iou_thrs, logger='silent')
                found, total = found + count * recall, total + count
        self.img_ids = image_ids
        return found / np.maximum(total, 1)

    def _stats(self, precision: np.ndarray) -> dict[str, float]:
        stats = {}
        for name, (threshold, area) in STATS.items():
            chosen = precision if threshold is None else precision[np.isclose(self.iou_thrs, threshold)]
            values = chosen[..., area]
            values = values[values > -1]
            stats[name] = float(values.mean()) if values.size else -1.0
        return stats

    def _classwise(self, precision: np.ndarray, logger: MMLogger) -> dict[str, float]:
        rows = [
            (self._coco_api.cats[cat_id]['name'], self._stats(precision[:, :, [index]]))
            for index, cat_id in enumerate(self.cat_ids)
        ]
        table = [['category', *STATS], *([name, *(f'{value:.3f}' for value in stats.values())] for name, stats in rows)]
        logger.info('\n' + AsciiTable(table).table)
        return {f'{name}_precision': stats['mAP'] for name, stats in rows}
