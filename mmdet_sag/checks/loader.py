"""Checks of data loaders' configs."""

import inspect
import os
from collections.abc import Iterable, Mapping, Sequence

from mmdet.datasets import MultiImageMixDataset
from mmdet.datasets.samplers import AspectRatioBatchSampler
from mmdet.registry import DATA_SAMPLERS, DATASETS
from mmengine.dataset import ConcatDataset, DefaultSampler, RepeatDataset
from torch.utils.data import DataLoader

from ..datasets.coco_source import CocoSource
from ..datasets.data_sources import dataset_type
from ..errors import InputError
from ..models.model_config import class_of, config_parts, type_name

# Where each launcher says how many processes it started.
_NUM_PROCESSES = dict(pytorch='WORLD_SIZE', slurm='SLURM_NTASKS', mpi='OMPI_COMM_WORLD_SIZE')
# Transforms of MMDetection that change masks only if they are bitmaps.
_NEED_BITMAPS = ('Albu', 'Expand', 'RandomErasing')
# And those that leave masks of any kind as they are, or fail on them, with what does the like of it.
_WITHOUT_MASKS = dict(
    Mosaic='use CachedMosaic',
    MixUp='use CachedMixUp',
    YOLOXMixUp='use CachedMixUp',
    RandomAffine='use Rotate, ShearX, ShearY, TranslateX and TranslateY',
    RandomShift='use TranslateX and TranslateY',
    RandomCenterCropPad='use RandomCenterCropPadWithMasks',
)
# And those that take another image, which only MultiImageMixDataset gives them.
_COPY_PASTE = ('CopyPaste', 'CopyPasteWithPolygons')
_MIX = (*_COPY_PASTE, 'MixUp', 'Mosaic', 'YOLOXMixUp')


def check_loader(loader: dict, option: str) -> None:
    """Check that a data loader's config has a data set, and no options that exclude each other."""
    if 'dataset' not in loader:
        raise InputError(f'{option} has no dataset: name one')
    known = [*inspect.signature(DataLoader).parameters, 'num_batch_per_epoch', 'disable_subprocess_warning']
    unknown = [key for key in loader if key not in known]
    if unknown:
        raise InputError(f"{option} has no option '{unknown[0]}'; its options are {', '.join(known)}")
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


def check_transforms(dataset: dict, option: str, sources: Iterable[CocoSource]) -> None:
    """Check that the pipelines of training data, at ``option``, change masks as they change images."""
    with_masks = [source for source in sources if source.loads_masks]
    polygons = [source.poly2mask for source in with_masks if source.polygons_only]
    boxes_alone = [source.option for source in with_masks if source.boxes_suffice]
    mixing: list[str] = []
    for place, _, part in config_parts(dataset, option):
        name = type_name(part)
        if name in _WITHOUT_MASKS and with_masks:
            raise InputError(f'{place}.type: {name} does not change masks: {_WITHOUT_MASKS[name]}')
        if 'pipeline' in part and issubclass(DATASETS.get(name) or object, MultiImageMixDataset):
            mixing.append(f'{place}.pipeline.')
        if name in _MIX and not place.startswith(tuple(mixing)):
            raise InputError(
                f'{place}.type: {name} mixes images: put it into the pipeline of a MultiImageMixDataset around the '
                'data set, as configs/centermask/centermask_r50-caffe_fpn_lsj-copy-paste.py does'
            )
        if boxes_alone and (remedy := _needs_all_masks(name, part, place)):
            raise InputError(
                f'{place}.type: {name} takes boxes or areas of objects from their masks, and {boxes_alone[0]} may have '
                f'objects without mask: {remedy}'
            )
        if name == 'CopyPaste' and polygons:
            raise InputError(
                f'{place}.type: CopyPaste does not take polygons: set --cfg-options {place}.type=CopyPasteWithPolygons'
            )
        if name in _NEED_BITMAPS and polygons:
            raise InputError(
                f'{place}.type: {name} does not take polygons: set --cfg-options '
                f'{" ".join(f"{poly2mask}=True" for poly2mask in polygons)}, with which all masks are learnt as bitmaps'
            )


def _needs_all_masks(name: str, transform: dict, place: str) -> str | None:
    """The remedy where a transform loses objects that have a box and no mask, or their boxes."""
    if name in _COPY_PASTE:
        return 'leave the transform out'
    option = dict(RandomCrop='recompute_bbox', FilterAnnotations='by_mask').get(name)
    return f'set --cfg-options {place}.{option}=False' if option and transform.get(option, False) else None


def check_same_metainfo(dataset: dict, option: str, sources: Sequence[CocoSource]) -> None:
    """Check that data sets that a ``ConcatDataset`` joins agree about classes and whatever else they say.

    If they do not, the joined one has a list of what they say, which MMDetection's hooks and metrics fail on.
    """
    for place, _, part in config_parts(dataset, option):
        joined = [source for source in sources if source.option.startswith(f'{place}.datasets.')]
        ignored = part.get('ignore_keys') or ()
        for other in joined[1:]:
            for key, value in joined[0].metainfo.items():
                if key not in ([ignored] if isinstance(ignored, str) else ignored) and other.metainfo.get(key) != value:
                    raise InputError(
                        f'{joined[0].option} and {other.option} differ in metainfo.{key}: set the same in both'
                    )


def check_class_order(sources: Sequence[CocoSource]) -> None:
    """Check that data sets of a run that have the same classes number them alike."""
    for source in sources[1:]:
        first = sources[0]
        if sorted(source.classes) == sorted(first.classes) and source.classes != first.classes:
            raise InputError(
                f'{first.option} and {source.option} have the same metainfo.classes in another order, by which a model '
                'numbers them: list categories and classes in the same order in both'
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
    if not issubclass(class_of(sampler, DATA_SAMPLERS), DefaultSampler):
        return
    num_images = _num_samples(loader['dataset'], f'{option}.dataset', images)
    if num_images is None:
        return
    num_processes = int(os.environ.get(_NUM_PROCESSES.get(launcher, ''), 1))
    round_up = sampler.get('round_up', True)
    share = (num_images + (num_processes - 1 if round_up else 0)) // num_processes
    needed = batch_size = loader.get('batch_size', 1)
    if batch_sampler and issubclass(class_of(batch_sampler, DATA_SAMPLERS), AspectRatioBatchSampler):
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
