"""Checks of data loaders' configs, and of the packages that data sets and evaluators need."""

import importlib.util
import os
from collections.abc import Mapping, Sequence
from typing import Any

from mmdet.datasets import MultiImageMixDataset
from mmdet.datasets.samplers import AspectRatioBatchSampler
from mmdet.registry import DATA_SAMPLERS
from mmengine.dataset import ConcatDataset, DefaultSampler, RepeatDataset

from ..datasets.data_sources import dataset_type
from ..errors import InputError
from ..models.model_config import config_parts, type_name

# Where each launcher says how many processes it started.
_NUM_PROCESSES = dict(pytorch='WORLD_SIZE', slurm='SLURM_NTASKS', mpi='OMPI_COMM_WORLD_SIZE')
# Classes of MMDetection that need panopticapi, and ours that do not.
_NEED_PANOPTICAPI = dict(
    CocoPanopticMetric='StandaloneCocoPanopticMetric', LoadPanopticAnnotations='LoadInstancesAndPanopticSeg'
)


def check_loader(loader: dict, option: str) -> None:
    """Check that a data loader's config has a data set, and no options that exclude each other."""
    if 'dataset' not in loader:
        raise InputError(f'{option} has no dataset: name one')
    if loader.get('persistent_workers', False) and loader.get('num_workers', 0) == 0:
        raise InputError(
            f'{option}.persistent_workers=True needs workers: set --cfg-options {option}.persistent_workers=False, or '
            f'{option}.num_workers=1'
        )
    if loader.get('drop_last', False) and loader.get('batch_sampler') is not None:
        raise InputError(
            f'{option}.drop_last=True does not go with a batch_sampler, which makes the batches: set --cfg-options '
            f'{option}.batch_sampler.drop_last=True {option}.drop_last=False'
        )


def check_packages(cfg: Any, option: str) -> None:
    """Check that ``panopticapi`` is installed if the config of a data set or an evaluator needs it."""
    for place, _, part in config_parts(cfg, option):
        name = type_name(part)
        if name in _NEED_PANOPTICAPI and importlib.util.find_spec('panopticapi') is None:
            raise InputError(
                f"{place}.type: {name} needs panopticapi: run 'pip install --no-deps panopticapi-lite', or use "
                f'{_NEED_PANOPTICAPI[name]}'
            )


def check_full_batch(loader: dict, option: str, images: Mapping[str, Sequence[dict]], launcher: str) -> None:
    """Check that a data loader that drops the last batch has any other; MMEngine divides by their number.

    ``images`` are the image entries that each data set uses, by its place in the config. What is not known before the
    run, such as how often a ``ClassBalancedDataset`` repeats an image, is not checked.
    """
    batch_sampler = loader.get('batch_sampler')
    if not (batch_sampler or loader).get('drop_last', False):
        return
    sampler = loader.get('sampler') or {}
    if not _is_a(sampler.get('type'), DefaultSampler):
        return
    num_images = _num_samples(loader['dataset'], f'{option}.dataset', images)
    if num_images is None:
        return
    num_processes = int(os.environ.get(_NUM_PROCESSES.get(launcher, ''), 1))
    round_up = sampler.get('round_up', True)
    share = (num_images + (num_processes - 1 if round_up else 0)) // num_processes
    needed = batch_size = loader.get('batch_size', 1)
    if batch_sampler and _is_a(batch_sampler.get('type'), AspectRatioBatchSampler):
        # It keeps upright images apart, and drops the rest of both even if that makes a full batch.
        shapes = {image['width'] < image['height'] for entries in images.values() for image in entries}
        needed += len(shapes) > 1
    if share >= needed:
        return
    place = f'{option}.batch_sampler' if batch_sampler else option
    processes = f' on each of {num_processes} processes' if num_processes > 1 else ''
    raise InputError(
        f'{option} makes no batch: it has {share} images{processes}, batches of {batch_size}, and drops the last one: '
        f'set --cfg-options {place}.drop_last=False, or a smaller {option}.batch_size'
    )


def _is_a(kind: object, base: type) -> bool:
    kind = DATA_SAMPLERS.get(kind) if isinstance(kind, str) else kind
    return isinstance(kind, type) and issubclass(kind, base)


def _num_samples(cfg: dict, option: str, images: Mapping[str, Sequence[dict]]) -> int | None:
    """Length of a data set, or None if it is not known."""
    if option in images:
        return len(images[option])
    kind = dataset_type(cfg, option)
    if issubclass(kind, ConcatDataset):
        parts = [_num_samples(part, f'{option}.datasets.{i}', images) for i, part in enumerate(cfg['datasets'])]
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) else None
    if issubclass(kind, (RepeatDataset, MultiImageMixDataset)):
        inner = _num_samples(cfg['dataset'], f'{option}.dataset', images)
        return None if inner is None else inner * cfg.get('times', 1)
    return None
