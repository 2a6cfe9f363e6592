import tempfile
from pathlib import Path

from mmdet.datasets.api_wrappers import COCO, COCOeval
from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS
from mmengine.fileio import load
from mmengine.logging import MMLogger

STATS = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')


@METRICS.register_module()
class UnroundedCocoMetric(CocoMetric):
    """COCO's box and mask AP in full precision.

    :class:`mmdet.evaluation.CocoMetric` rounds AP to three digits, which hides small gains of fine-tuning. Keys and
    arguments are the same. Masks are ranked by ``mask_scores`` if the model has them. With ``classwise``,
    ``metric_items`` or proposals, that class does the work.
    """

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the metrics of all results.

        Args:
            results: (ground truth, prediction) of each image, as ``process`` collects them.

        Returns:
            ``bbox_mAP``, ``segm_mAP_50`` etc. in [0, 1], or -1 without objects.
        """
        if self.format_only or self.classwise or self.metric_items or not set(self.metrics) <= {'bbox', 'segm'}:
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
                detections = load(files[metric])
                if not detections:
                    logger.warning(f'No detection at all: {metric} AP is 0.')
                    metrics.update({f'{metric}_{name}': 0.0 for name in STATS})
                    continue
                if metric == 'segm':
                    # With a box, pycocotools uses its area as the mask's.
                    for detection in detections:
                        detection.pop('bbox')
                evaluation = COCOeval(self._coco_api, self._coco_api.loadRes(detections), metric)
                evaluation.params.catIds = self.cat_ids
                evaluation.params.imgIds = self.img_ids
                evaluation.params.maxDets = list(self.proposal_nums)
                evaluation.params.iouThrs = self.iou_thrs
                evaluation.evaluate()
                evaluation.accumulate()
                evaluation.summarize()
                metrics.update({f'{metric}_{name}': float(value) for name, value in zip(STATS, evaluation.stats)})
        return metrics
