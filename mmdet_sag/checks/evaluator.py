"""Checks of evaluators against the data that they measure."""

import inspect
import itertools
import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mmdet.datasets import ConcatDataset
from mmdet.evaluation import CocoMetric, CocoPanopticMetric
from mmdet.evaluation.evaluator import MultiDatasetsEvaluator
from mmdet.registry import DATASETS, EVALUATOR, METRICS
from mmengine.dataset import ClassBalancedDataset, RepeatDataset

from ..datasets.annotation_problems import is_countable_id, is_usable_image
from ..datasets.coco_source import CocoSource, PanopticSource
from ..datasets.data_sources import dataset_type
from ..errors import InputError
from ..evaluation import StandaloneCocoPanopticMetric, UnroundedCocoMetric
from ..fileio import is_remote
from ..models.model_config import class_of, config_parts, type_name

# Reads an annotation file, each once.
_Load = Callable[..., dict]


class MetricConfig(NamedTuple):
    """A metric in a config: its place, its config, its class, what is put before its figures, and its data set."""

    option: str
    cfg: dict
    kind: type
    prefix: str = ''
    data_set: str | None = None

    @property
    def measures_instances(self) -> bool:
        """Whether it compares detections with ground truth."""
        return issubclass(self.kind, CocoMetric) and not self.cfg.get('format_only', False)

    @property
    def measures_masks(self) -> bool:
        """Whether it compares instance masks with ground truth."""
        metrics = self.cfg.get('metric', 'bbox')
        return self.measures_instances and ('segm' in metrics or 'boundary' in metrics)

    @property
    def figures(self) -> list[str]:
        """What its figures begin with, such as ``coco/segm``."""
        metrics = self.cfg.get('metric', 'bbox') if self.measures_instances else []
        start = f'{self.prefix}{self.cfg.get("prefix") or "coco"}'
        return [f'{start}/{name}' for name in ([metrics] if isinstance(metrics, str) else metrics)]

    def measures(self, source: CocoSource) -> bool:
        """Whether it is given the images of a data set."""
        return self.data_set is None or f'{source.option}.'.startswith(f'{self.data_set}.')


def coco_metrics(evaluator: Any, option: str, dataset: dict, dataset_option: str) -> list[MetricConfig]:
    """Return the COCO metrics and panoptic metrics in an evaluator's config, which measures ``dataset``.

    The config is of one metric, a list of them, or an evaluator with ``metrics``.
    """
    # By metric: the prefix and the place of the data set.
    parts: Iterable = itertools.repeat(('', None))
    if isinstance(evaluator, dict) and 'metrics' in evaluator:
        parts = _parts(evaluator, option, dataset, dataset_option) or parts
        option, evaluator = f'{option}.metrics', evaluator['metrics']
    if isinstance(evaluator, dict):
        entries = [(option, evaluator)]
    else:
        entries = [(f'{option}.{index}', entry) for index, entry in enumerate(evaluator or [])]
    found = []
    for (place, entry), (prefix, data_set) in zip(entries, parts):
        kind = class_of(entry, METRICS)
        if issubclass(kind, (CocoMetric, CocoPanopticMetric, StandaloneCocoPanopticMetric)):
            found.append(MetricConfig(place, entry, kind, prefix, data_set))
    return found


def _parts(evaluator: dict, option: str, dataset: dict, dataset_option: str) -> list[tuple[str, str]]:
    """Check an evaluator with ``metrics``; if each has a data set of its own, return their prefixes and places."""
    kind = class_of({'type': 'Evaluator', **evaluator}, EVALUATOR)
    if kind is object:
        name = evaluator['type']
        raise InputError(f"{option}.type: no evaluator '{name}' is registered; is a custom_imports missing?")
    try:
        inspect.signature(kind).bind(**{key: value for key, value in evaluator.items() if key != 'type'})
    except TypeError as error:
        raise InputError(
            f'{option} is not a valid config of {kind.__name__}: {error}: write {option}=dict(_delete_=True, ...) to '
            'inherit nothing'
        ) from error
    if not issubclass(kind, MultiDatasetsEvaluator):
        return []
    metrics, prefixes, data_sets = evaluator['metrics'], evaluator['dataset_prefixes'], dataset.get('datasets') or ()
    counts = len(data_sets), 1 if isinstance(metrics, dict) else len(metrics), len(set(prefixes)), len(prefixes)
    if not issubclass(dataset_type(dataset, dataset_option), ConcatDataset) or len(set(counts)) > 1:
        raise InputError(
            f'{option} measures each data set of a ConcatDataset with a metric of its own, and there are {counts[0]} '
            f'datasets in {dataset_option}, {counts[1]} metrics and {counts[2]} different dataset_prefixes: give as '
            'many of each'
        )
    return [(f'{prefix}/', f'{dataset_option}.datasets.{index}') for index, prefix in enumerate(prefixes)]


def check_images_once(dataset: dict, option: str) -> None:
    """Check that evaluation data do not repeat images, whose detections would count again, as false ones."""
    for place, _, part in config_parts(dataset, option):
        for kind, key, value in ((RepeatDataset, 'times', 1), (ClassBalancedDataset, 'oversample_thr', 0)):
            if part.get(key, value) != value and issubclass(DATASETS.get(type_name(part)) or object, kind):
                raise InputError(
                    f'{place} repeats images, and detections of an image count once: set --cfg-options '
                    f'{place}.{key}={value}'
                )


def check_metric(metric: MetricConfig, dataset: dict, sources: Sequence[CocoSource], load: _Load) -> None:
    """Check that a metric's files exist and describe the images of ``dataset``, whose data sets are ``sources``."""
    if metric.measures_instances and len(sources) > 1:
        _check_several(metric, sources, load)
    if metric.cfg.get('ann_file') is None:
        gives_objects = any('instances' in (part.get('meta_keys') or ()) for _, _, part in config_parts(dataset, ''))
        if metric.measures_instances and sources and not gives_objects:
            raise InputError(
                f'{metric.option} has no ann_file, and the pipeline does not give it the objects: set --cfg-options '
                f'{metric.option}.ann_file={shlex.quote(sources[0].ann_file)}'
            )
        return
    if is_remote(metric.cfg['ann_file'], metric.cfg.get('backend_args')):
        return
    source = sources[0] if len(sources) == 1 else None
    if issubclass(metric.kind, CocoMetric):
        expected = source.ann_file if source else None
        _check_ann_file(metric, 'annotation', expected, load, lambda own, other: _outline(own) == _outline(other))
        return
    panoptic = source if isinstance(source, PanopticSource) else None
    _check_ann_file(metric, 'panoptic', panoptic.panoptic_ann_file if panoptic else None, load, _lists_images)
    folder = metric.cfg.get('seg_prefix')
    if folder and not metric.cfg.get('format_only', False) and not os.path.isdir(folder):
        raise InputError(
            f"folder of panoptic PNG files '{folder}' ({metric.option}.seg_prefix) does not exist: set --cfg-options "
            f'{metric.option}.seg_prefix={panoptic.png_folder if panoptic else "DIR"}'
        )


def check_annotation_ids(metric: MetricConfig, load: _Load) -> None:
    """Check that a metric counts all annotations of its annotation file."""
    path = metric.cfg.get('ann_file')
    # Without a file of its own, MMDetection's metric numbers the annotations that the data set gives it.
    if not metric.measures_instances or not path or is_remote(path, metric.cfg.get('backend_args')):
        return
    annotations = load(path, True)['annotations']
    if issubclass(metric.kind, UnroundedCocoMetric):
        return
    if not all(isinstance(item, dict) and is_countable_id(item.get('id')) for item in annotations):
        raise InputError(
            f"annotation file '{path}' has annotation ids that are not positive numbers, which "
            f'{metric.kind.__name__} counts wrong: set --cfg-options {metric.option}.type=UnroundedCocoMetric'
        )


def check_save_best(cfg: Mapping, metrics: Sequence[MetricConfig]) -> None:
    """Check that the checkpoint hook chooses the best checkpoint by a figure that validation computes."""
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    chosen = hook.get('save_best') or ()
    figures = [figure for metric in metrics for figure in metric.figures]
    for key in [chosen] if isinstance(chosen, str) else chosen:
        found = re.match('(?:.*/)?coco/([a-z]+)(?=_mAP)', key)
        if found and metrics and found[0] not in figures:
            other = [figure for figure in figures if figure.endswith(f'/{found[1]}')]
            remedy = f'{other[0]}_mAP' if other else f"auto, or add '{found[1]}' to {metrics[0].option}.metric"
            raise InputError(
                f"default_hooks.checkpoint.save_best is '{key}', which {metrics[0].option} does not compute: set "
                f'--cfg-options default_hooks.checkpoint.save_best={remedy}'
            )


def _check_several(metric: MetricConfig, sources: Sequence[CocoSource], load: _Load) -> None:
    """Check that images of several data sets are told apart, and that the metric's file has all of them."""
    ids = [i for source in sources for i in _image_ids(source.of_indices(load(source.ann_file)['images']))]
    ann_file = metric.cfg.get('ann_file')
    known = _image_ids(load(ann_file)['images']) if ann_file and os.path.isfile(ann_file) else ids
    if len(set(ids)) < len(ids) or not set(ids) <= set(known):
        raise InputError(
            f'{metric.option} cannot measure {len(sources)} data sets, whose images have the same ids or are not all '
            "in its ann_file: use dict(_delete_=True, type='MultiDatasetsEvaluator', metrics=[...], "
            "dataset_prefixes=['a', 'b']), where each metric has the ann_file of a data set, or join the data sets to "
            'one file'
        )


def _check_ann_file(
    metric: MetricConfig, what: str, expected: str | None, load: _Load, fits: Callable[[dict, dict], bool]
) -> None:
    path = metric.cfg['ann_file']
    if not os.path.isfile(path):
        raise InputError(
            f"{what} file '{path}' ({metric.option}.ann_file) does not exist: set --cfg-options "
            f'{metric.option}.ann_file={shlex.quote(expected or "FILE")}'
        )
    if expected and not os.path.samefile(path, expected) and not fits(load(path), load(expected)):
        raise InputError(
            f"{metric.option}.ann_file is '{path}', but the images come from '{expected}', which lists others: set "
            f'--cfg-options {metric.option}.ann_file={shlex.quote(expected)}'
        )


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
