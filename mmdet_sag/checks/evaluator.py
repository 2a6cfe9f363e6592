"""Checks of evaluators against the data that they measure."""

import inspect
import os
from collections.abc import Callable, Sequence
from typing import Any

from mmdet.evaluation import CocoMetric, CocoPanopticMetric
from mmdet.registry import METRICS

from ..datasets.annotation_problems import is_usable_image
from ..datasets.data_sources import CocoSource
from ..errors import InputError
from ..evaluation import StandaloneCocoPanopticMetric
from ..fileio import is_remote


def coco_metrics(evaluator: Any) -> list[tuple[str, dict]]:
    """COCO metrics of an evaluator's config, each with its place relative to the evaluator."""
    return _metrics(evaluator, (CocoMetric,))


def panoptic_metrics(evaluator: Any) -> list[tuple[str, dict]]:
    """Panoptic metrics of an evaluator's config, each with its place relative to the evaluator."""
    return _metrics(evaluator, (CocoPanopticMetric, StandaloneCocoPanopticMetric))


def _metrics(evaluator: Any, kinds: tuple[type, ...]) -> list[tuple[str, dict]]:
    if isinstance(evaluator, dict):
        entries = [('', evaluator)]
    else:
        entries = [(f'.{index}', entry) for index, entry in enumerate(evaluator or [])]
    found = []
    for place, entry in entries:
        kind = entry.get('type')
        kind = METRICS.get(kind) if isinstance(kind, str) else kind
        if inspect.isclass(kind) and issubclass(kind, kinds):
            found.append((place, entry))
    return found


def _outline(content: dict) -> tuple[set, list]:
    images = {image['id'] for image in content['images'] if is_usable_image(image)}
    return images, [(c.get('id'), c.get('name')) for c in content['categories'] if isinstance(c, dict)]


def check_evaluator(place: str, metric: dict, sources: Sequence[CocoSource], load: Callable[[str], dict]) -> None:
    """Checks that a COCO metric reads the annotations of the images that it measures.

    Args:
        place: Place of the metric in the config.
        metric: Its config.
        sources: Data sets that the images come from.
        load: Reads an annotation file.

    Raises:
        InputError: Its file does not exist, or lists other images or categories.
    """
    path = metric.get('ann_file')
    if path is None or is_remote(path, metric.get('backend_args')):
        return
    if not os.path.isfile(path):
        remedy = f'{place}.ann_file={sources[0].ann_file}' if len(sources) == 1 else f'{place}.ann_file=FILE'
        raise InputError(f"annotation file '{path}' ({place}.ann_file) does not exist: set --cfg-options {remedy}")
    if len(sources) != 1 or os.path.samefile(path, sources[0].ann_file):
        return
    if _outline(load(path)) != _outline(load(sources[0].ann_file)):
        raise InputError(
            f"{place}.ann_file is '{path}', but the images come from '{sources[0].ann_file}', which lists others: set "
            f'--cfg-options {place}.ann_file={sources[0].ann_file}'
        )
