"""Checks of panoptic data, and of a panoptic model and its evaluators, before a run."""

import importlib.util
import os
from collections.abc import Callable, Sequence
from typing import Any

from mmengine.logging import print_log

from ..datasets.data_sources import CocoSource
from ..datasets.panoptic_source import PanopticSource
from ..errors import InputError
from ..fileio import is_remote
from .panoptic_problems import category_kind_problems, missing_png_problems, png_problems, segment_problems
from .problem_kinds import PROBLEM_KINDS
from .problem_tally import ProblemTally

_FULL_CHECK = 'tools/misc/check_dataset.py'
_SAMPLED_PNGS = 16
_NEED_PANOPTICAPI = ('CocoPanopticMetric', 'LoadPanopticAnnotations')


def check_panopticapi(cfg: Any, option: str) -> None:
    """Checks that what needs ``panopticapi`` finds it.

    Args:
        cfg: Config of a data set or an evaluator.
        option: Its place in the whole config.

    Raises:
        InputError: MMDetection's panoptic metric or loading is used, and the package is not installed.
    """
    if isinstance(cfg, dict):
        kind = getattr(cfg.get('type'), '__name__', cfg.get('type'))
        name = kind.rpartition('.')[2] if isinstance(kind, str) else ''
        if name in _NEED_PANOPTICAPI and importlib.util.find_spec('panopticapi') is None:
            ours = dict(zip(_NEED_PANOPTICAPI, ('StandaloneCocoPanopticMetric', 'LoadInstancesAndPanopticSeg')))[name]
            raise InputError(
                f"{option}.type: {name} needs panopticapi: run 'pip install --no-deps panopticapi-lite', or use {ours}"
            )
        for key, value in cfg.items():
            check_panopticapi(value, f'{option}.{key}')
    elif isinstance(cfg, (list, tuple)):
        for index, value in enumerate(cfg):
            check_panopticapi(value, f'{option}.{index}')


def check_panoptic_model(model: dict, source: CocoSource, trained: bool) -> None:
    """Checks that a panoptic model gets panoptic data with as many classes as its heads have.

    Args:
        model: Config of the model.
        source: The data set.
        trained: Whether the model learns from it.

    Raises:
        InputError: It does not.
    """
    if 'semantic_head' not in model:
        return
    if source.panoptic is None:
        if trained:
            raise InputError(
                f'the model has a semantic head, but {source.option} has no panoptic annotations: set its type to '
                'CocoInstancePanopticDataset, with panoptic_ann_file'
            )
        return
    for key, classes in (
        ('num_things_classes', source.panoptic.thing_classes),
        ('num_stuff_classes', source.panoptic.stuff_classes),
    ):
        for head in ('semantic_head', 'panoptic_fusion_head'):
            count = model.get(head, {}).get(key)
            if count is not None and count != len(classes):
                raise InputError(
                    f'model.{head}.{key} is {count}, but {source.option} has {len(classes)} such classes: set '
                    f'--cfg-options model.{head}.{key}={len(classes)}, or correct {source.option}.metainfo'
                )


def check_semantic_target(model: dict, dataset: dict, option: str) -> None:
    """Checks that the pipeline of a panoptic model's training data loads a semantic segmentation.

    Args:
        model: Config of the model.
        dataset: Config of the data set.
        option: Its place in the whole config.

    Raises:
        InputError: It loads instances alone.
    """
    if 'semantic_head' not in model:
        return
    for transform in dataset.get('pipeline') or []:
        kind = getattr(transform.get('type'), '__name__', transform.get('type'))
        instances_alone = kind in ('LoadAnnotations', 'mmdet.LoadAnnotations')
        if not transform.get('with_seg', not instances_alone):
            raise InputError(
                f'the model has a semantic head, but the pipeline of {option} loads no semantic segmentation: use '
                'LoadInstancesAndPanopticSeg'
            )


def check_panoptic_evaluator(
    place: str, metric: dict, panoptic: PanopticSource | None, load: Callable[[str], dict]
) -> None:
    """Checks the files of a panoptic metric.

    Args:
        place: Place of the metric in the config.
        metric: Its config.
        panoptic: Panoptic annotations of the images that it measures, where they are known.
        load: Reads an annotation file.

    Raises:
        InputError: A file or folder does not exist, or the file lists other images.
    """
    path, folder = metric.get('ann_file'), metric.get('seg_prefix')
    if path is None or is_remote(path, metric.get('backend_args')):
        return
    if not os.path.isfile(path):
        remedy = panoptic.ann_file if panoptic else 'FILE'
        raise InputError(
            f"panoptic file '{path}' ({place}.ann_file) does not exist: set --cfg-options {place}.ann_file={remedy}"
        )
    if not metric.get('format_only', False) and folder and not os.path.isdir(folder):
        remedy = panoptic.png_folder if panoptic else 'DIR'
        raise InputError(
            f"folder of panoptic PNG files '{folder}' ({place}.seg_prefix) does not exist: set --cfg-options "
            f'{place}.seg_prefix={remedy}'
        )
    if panoptic is not None and not os.path.samefile(path, panoptic.ann_file):
        known, needed = ({entry['image_id'] for entry in load(p)['annotations']} for p in (path, panoptic.ann_file))
        if not needed <= known:
            raise InputError(
                f"{place}.ann_file is '{path}', but the images come from '{panoptic.ann_file}', which lists others: "
                f'set --cfg-options {place}.ann_file={panoptic.ann_file}'
            )


def check_panoptic_data(source: PanopticSource, content: dict, images: Sequence[dict], evaluated: bool) -> None:
    """Checks the panoptic annotations of a data set for a run; of its PNG files, some are decoded.

    Args:
        source: The panoptic annotations.
        content: Content of their file.
        images: Image entries that the data set uses.
        evaluated: Whether the run measures on it; else it learns from it.

    Raises:
        InputError: The data would crash the run, or silently ruin it.
    """
    tally = ProblemTally()
    by_id = {image['id']: image for image in images}
    for kind, example in category_kind_problems(content['categories'], source):
        tally.add(kind, example)
    for kind, example in segment_problems(content, by_id):
        tally.add(kind, example)
    _refuse(source, tally, evaluated)
    if not os.path.isdir(source.png_folder):
        raise InputError(
            f"folder of panoptic PNG files '{source.png_folder}' does not exist: put the files or a link there, or set "
            f'--cfg-options {source.option}.data_prefix.seg=DIR'
        )
    entries = [entry for entry in content['annotations'] if entry['image_id'] in by_id]
    for kind, example in missing_png_problems(source, entries):
        tally.add(kind, example)
    _refuse(source, tally, evaluated)
    for entry in entries[:: max(1, len(entries) // _SAMPLED_PNGS)]:
        for kind, example in png_problems(source, entry, by_id[entry['image_id']]):
            tally.add(kind, example)
    _refuse(source, tally, evaluated)
    if tally:
        found = '; '.join(tally.describe(kind) for kind in tally.counts)
        print_log(f'{source.option}: {found}. Nothing of this stops a run; {_FULL_CHECK} lists it.', logger='current')


def _refuse(source: PanopticSource, tally: ProblemTally, evaluated: bool) -> None:
    for kind, entry in PROBLEM_KINDS.items():
        if kind in tally.counts and (entry.stops_evaluation if evaluated else entry.stops_training):
            raise InputError(
                f"panoptic file '{source.ann_file}': {tally.describe(kind)}: {entry.remedy}, or name other annotations "
                f'with --cfg-options {source.option}.panoptic_ann_file=FILE {source.option}.data_prefix.seg=DIR'
            )
