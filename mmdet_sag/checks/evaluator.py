"""Checks of evaluators against the data that they measure."""

import inspect
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from mmdet.evaluation import CocoMetric, CocoPanopticMetric
from mmdet.registry import METRICS

from ..datasets.annotation_problems import is_countable_id, is_usable_image
from ..datasets.data_sources import CocoSource, PanopticSource
from ..errors import InputError
from ..evaluation import StandaloneCocoPanopticMetric, UnroundedCocoMetric
from ..fileio import is_remote
from ..models.model_config import config_parts

_PANOPTIC = (CocoPanopticMetric, StandaloneCocoPanopticMetric)


class MetricConfig(NamedTuple):
    """A metric in a config: its place, its config and its class."""

    option: str
    cfg: dict
    kind: type

    @property
    def measures_instances(self) -> bool:
        """Whether it compares detections with ground truth."""
        return issubclass(self.kind, CocoMetric) and not self.cfg.get('format_only', False)

    @property
    def measures_masks(self) -> bool:
        """Whether it compares instance masks with ground truth."""
        metrics = self.cfg.get('metric', 'bbox')
        return self.measures_instances and ('segm' in metrics or 'boundary' in metrics)


def coco_metrics(evaluator: Any, option: str) -> list[MetricConfig]:
    """Return the COCO metrics and panoptic metrics in an evaluator's config, which is of one metric or a list."""
    if isinstance(evaluator, dict):
        entries = [(option, evaluator)]
    else:
        entries = [(f'{option}.{index}', entry) for index, entry in enumerate(evaluator or [])]
    found = []
    for place, entry in entries:
        kind = entry.get('type')
        kind = METRICS.get(kind) if isinstance(kind, str) else kind
        if inspect.isclass(kind) and issubclass(kind, (CocoMetric, *_PANOPTIC)):
            found.append(MetricConfig(place, entry, kind))
    return found


def check_metric(
    metric: MetricConfig, dataset: dict, sources: Sequence[CocoSource], load: Callable[[str], dict]
) -> None:
    """Check that a metric's files exist and describe the images of ``dataset``, whose data sets are ``sources``."""
    if metric.measures_instances and len(sources) > 1:
        _check_several(metric, sources, load)
    if metric.cfg.get('ann_file') is None:
        if metric.measures_instances and sources and not _gives_objects(dataset):
            raise InputError(
                f'{metric.option} has no ann_file, and the pipeline does not give it the objects: set --cfg-options '
                f'{metric.option}.ann_file={sources[0].ann_file}'
            )
        return
    if is_remote(metric.cfg['ann_file'], metric.cfg.get('backend_args')):
        return
    source = sources[0] if len(sources) == 1 else None
    if issubclass(metric.kind, CocoMetric):
        _check_ann_file(metric, 'annotation', source.ann_file if source else None, load, _has_same_outline)
        return
    panoptic = source if isinstance(source, PanopticSource) else None
    _check_ann_file(metric, 'panoptic', panoptic.panoptic_ann_file if panoptic else None, load, _lists_images)
    folder = metric.cfg.get('seg_prefix')
    if folder and not metric.cfg.get('format_only', False) and not os.path.isdir(folder):
        raise InputError(
            f"folder of panoptic PNG files '{folder}' ({metric.option}.seg_prefix) does not exist: set --cfg-options "
            f'{metric.option}.seg_prefix={panoptic.png_folder if panoptic else "DIR"}'
        )


def check_annotation_ids(metric: MetricConfig, content: dict) -> None:
    """Check that a metric counts all annotations of the content of its annotation file."""
    # Without a file of its own, MMDetection's metric numbers the annotations that the data set gives it.
    if not metric.measures_instances or not metric.cfg.get('ann_file') or issubclass(metric.kind, UnroundedCocoMetric):
        return
    if not all(is_countable_id(annotation.get('id')) for annotation in content['annotations']):
        raise InputError(
            f"annotation file '{metric.cfg['ann_file']}' has annotation ids that are not positive numbers, which "
            f'{metric.kind.__name__} counts wrong: set --cfg-options {metric.option}.type=UnroundedCocoMetric'
        )


def check_save_best(cfg: Mapping, metrics: Sequence[MetricConfig]) -> None:
    """Check that the checkpoint hook chooses the best checkpoint by a figure that validation computes."""
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    chosen = hook.get('save_best') or ()
    for key in [chosen] if isinstance(chosen, str) else chosen:
        found = re.match('coco/([a-z]+)_mAP', key)
        if found and metrics and not any(found[1] in metric.cfg.get('metric', 'bbox') for metric in metrics):
            raise InputError(
                f"default_hooks.checkpoint.save_best is '{key}', which {metrics[0].option} does not compute: set "
                f"--cfg-options default_hooks.checkpoint.save_best=auto, or add '{found[1]}' to "
                f'{metrics[0].option}.metric'
            )


def _gives_objects(dataset: dict) -> bool:
    return any('instances' in (part.get('meta_keys') or ()) for _, _, part in config_parts(dataset, ''))


def _check_several(metric: MetricConfig, sources: Sequence[CocoSource], load: Callable[[str], dict]) -> None:
    """Check that images of several data sets are told apart, and that the metric's file has all of them."""
    ids = [i for source in sources for i in _image_ids(source.of_indices(load(source.ann_file)['images']))]
    ann_file = metric.cfg.get('ann_file')
    known = _image_ids(load(ann_file)['images']) if ann_file and os.path.isfile(ann_file) else ids
    if len(set(ids)) < len(ids) or not set(ids) <= set(known):
        raise InputError(
            f'{metric.option} cannot measure {len(sources)} data sets, whose images have the same ids or are not all '
            "in its ann_file: use type='MultiDatasetsEvaluator' with metrics=[...], one with the ann_file of each "
            "data set, and dataset_prefixes=['a', 'b']; or join the data sets to one file"
        )


def _check_ann_file(
    metric: MetricConfig,
    what: str,
    expected: str | None,
    load: Callable[[str], dict],
    fits: Callable[[dict, dict], bool],
) -> None:
    path = metric.cfg['ann_file']
    if not os.path.isfile(path):
        raise InputError(
            f"{what} file '{path}' ({metric.option}.ann_file) does not exist: set --cfg-options "
            f'{metric.option}.ann_file={expected or "FILE"}'
        )
    if expected and not os.path.samefile(path, expected) and not fits(load(path), load(expected)):
        raise InputError(
            f"{metric.option}.ann_file is '{path}', but the images come from '{expected}', which lists others: set "
            f'--cfg-options {metric.option}.ann_file={expected}'
        )


def _has_same_outline(content: dict, expected: dict) -> bool:
    return _outline(content) == _outline(expected)


def _image_ids(images: list) -> list:
    return [image['id'] for image in images if is_usable_image(image)]


def _outline(content: dict) -> tuple[set, list]:
    categories = [(c.get('id'), c.get('name')) for c in content['categories'] if isinstance(c, dict)]
    return set(_image_ids(content['images'])), categories


def _lists_images(content: dict, expected: dict) -> bool:
    known, needed = (
        {entry['image_id'] for entry in panoptic['annotations'] if isinstance(entry, dict) and 'image_id' in entry}
        for panoptic in (content, expected)
    )
    return needed <= known
