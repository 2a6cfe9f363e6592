from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import mmcv
import numpy as np
from mmdet.evaluation import INSTANCE_OFFSET
from mmdet.evaluation.metrics.coco_panoptic_metric import parse_pq_results, print_panoptic_table
from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric
from mmengine.fileio import dump, get_local_path, load
from mmengine.logging import MMLogger

from ...datasets.coco_instance_panoptic import id_to_rgb, read_segment_ids
from ...errors import InputError


@METRICS.register_module()
class StandaloneCocoPanopticMetric(BaseMetric):
    """COCO's panoptic quality (PQ, SQ, RQ of all classes, things and stuff).

    Values and keys equal those of :class:`mmdet.evaluation.CocoPanopticMetric`, which needs ``panopticapi`` (not on
    PyPI) and writes each prediction to a file. This class works in memory without it.

    Source: `Panoptic Segmentation <https://arxiv.org/abs/1801.00868>`_, Section 4.

    Args:
        ann_file: Panoptic annotation file.
        seg_prefix: Folder of the true panoptic PNG files.
        classwise: Whether to log each class.
        format_only: Whether to write results, to ``outfile_prefix``, without evaluating them.
        outfile_prefix: If given, results are written to ``<prefix>.panoptic/`` and ``<prefix>.panoptic.json`` in
            COCO's format. Several machines must share this storage.
        backend_args: Storage backend of the annotations.
        collect_device, prefix: As in ``BaseMetric``.
    """

    default_prefix = 'coco_panoptic'

    def __init__(
        self,
        ann_file: str,
        seg_prefix: str = '',
        classwise: bool = False,
        format_only: bool = False,
        outfile_prefix: str | None = None,
        backend_args: dict | None = None,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if format_only and not outfile_prefix:
            raise InputError('format_only=True writes results, but outfile_prefix is not set: set it')
        self.seg_prefix, self.backend_args = Path(seg_prefix), backend_args
        self.classwise, self.format_only, self.outfile_prefix = classwise, format_only, outfile_prefix
        with get_local_path(ann_file, backend_args=backend_args) as path:
            content = load(path)
        # Names of the PNG files: images of the same name in several folders are different ones.
        self.png_names = {
            image['id']: str(PurePosixPath(image['file_name']).with_suffix('.png'))
            for image in content.get('images', [])
        }
        self.categories = {category['id']: category for category in content['categories']}
        self.annotations = {annotation['image_id']: annotation for annotation in content.get('annotations', [])}

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Compare each image's ``pred_panoptic_seg`` with the ground truth."""
        classes = self.dataset_meta['classes']
        ids_by_name = {category['name']: category_id for category_id, category in self.categories.items()}
        for sample in data_samples:
            ids = sample['pred_panoptic_seg']['sem_seg'][0].cpu().numpy().astype(np.int32)
            # Pixels without a segment are 0 in COCO's files, and the number of classes in MMDetection's results.
            ids[ids % INSTANCE_OFFSET >= len(classes)] = 0
            segments = [
                dict(id=int(i), category_id=ids_by_name[classes[i % INSTANCE_OFFSET]], area=int(area))
                for i, area in zip(*np.unique(ids, return_counts=True))
                if i
            ]
            result = None
            if self.outfile_prefix:
                file_name = self.png_names.get(sample['img_id']) or f'{Path(sample["img_path"]).stem}.png'
                mmcv.imwrite(id_to_rgb(ids)[..., ::-1], f'{self.outfile_prefix}.panoptic/{file_name}')
                result = dict(image_id=sample['img_id'], file_name=file_name, segments_info=segments)
            counts = None if self.format_only else self._compare(ids, segments, self.annotations[sample['img_id']])
            self.results.append((counts, result))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute ``PQ``, ``SQ`` and ``RQ`` of all classes, with ``_th`` of things and ``_st`` of stuff, in percent."""
        logger = MMLogger.get_current_instance()
        counts, written = zip(*results)
        if self.outfile_prefix:
            dump(dict(annotations=list(written)), f'{self.outfile_prefix}.panoptic.json')
        if self.format_only:
            logger.info(f'results are written to {self.outfile_prefix}.panoptic.json and the folder beside it')
            return {}
        iou, tp, fp, fn = np.sum(counts, axis=0).T
        # Classes that are neither annotated nor predicted do not count.
        counted = tp + fp + fn > 0
        found = np.maximum(tp + 0.5 * fp + 0.5 * fn, 0.5)
        quality = dict(pq=iou / found, sq=iou / np.maximum(tp, 1), rq=tp / found)
        is_thing = np.array([bool(category['isthing']) for category in self.categories.values()])
        averages = {}
        for name, chosen in (('All', counted), ('Things', counted & is_thing), ('Stuff', counted & ~is_thing)):
            number = int(chosen.sum())
            averages[name] = {key: float(values[chosen].sum() / max(number, 1)) for key, values in quality.items()}
            averages[name]['n'] = number
        names = [category['name'] for category in self.categories.values()]
        by_class = {name: {key: values[i] for key, values in quality.items()} for i, name in enumerate(names)}
        print_panoptic_table(averages, by_class if self.classwise else None, logger=logger)
        return parse_pq_results(averages)

    def _compare(self, pred_ids: np.ndarray, pred_segments: list[dict], annotation: dict) -> np.ndarray:
        """Return IoU sum, true positives, false positives and false negatives of an image, (num_categories, 4)."""
        gt_ids = read_segment_ids(str(self.seg_prefix / annotation['file_name']), self.backend_args)
        if gt_ids.shape != pred_ids.shape:
            raise InputError(
                f"'{annotation['file_name']}' is {gt_ids.shape[1]} x {gt_ids.shape[0]} pixels, but its image "
                f'{pred_ids.shape[1]} x {pred_ids.shape[0]}: name the folder that belongs to the annotation file'
            )
        pairs, areas = np.unique(gt_ids.astype(np.int64) << 32 | pred_ids, return_counts=True)
        overlaps = {(int(pair >> 32), int(pair & 0xFFFFFFFF)): int(area) for pair, area in zip(pairs, areas)}
        truths = {segment['id']: segment for segment in annotation['segments_info']}
        preds = {segment['id']: segment for segment in pred_segments}

        row = {category_id: i for i, category_id in enumerate(self.categories)}
        counts = np.zeros((len(row), 4))
        for (gt_id, pred_id), overlap in overlaps.items():
            truth, pred = truths.get(gt_id), preds.get(pred_id)
            if truth is None or pred is None or truth.get('iscrowd', 0) or truth['category_id'] != pred['category_id']:
                continue
            # Predicted pixels without annotation do not count against the prediction.
            union = pred['area'] + truth['area'] - overlap - overlaps.get((0, pred_id), 0)
            if overlap / union > 0.5:
                counts[row[truth['category_id']]] += (overlap / union, 1, 0, 0)
                # No other IoU of either segment can exceed 0.5.
                del truths[gt_id], preds[pred_id]

        crowds = {}
        for gt_id, truth in truths.items():
            if truth.get('iscrowd', 0):
                crowds[truth['category_id']] = gt_id
            else:
                counts[row[truth['category_id']], 3] += 1
        for pred_id, pred in preds.items():
            excused = overlaps.get((0, pred_id), 0) + overlaps.get((crowds.get(pred['category_id']), pred_id), 0)
            if excused / pred['area'] <= 0.5:
                counts[row[pred['category_id']], 2] += 1
        return counts
