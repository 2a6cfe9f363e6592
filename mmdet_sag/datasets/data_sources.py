"""The data sets that a config names, as their classes read them."""

import copy
import inspect
import os
from collections.abc import Iterator

from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS
from mmdet.utils import ConfigType
from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset, pseudo_collate
from mmengine.logging import print_log

from ..errors import InputError
from ..fileio import is_remote
from ..models.model_config import class_of, type_name
from .coco_file import check_not_yolo
from .coco_instance_panoptic import CocoInstancePanopticDataset
from .coco_source import CocoSource, PanopticSource, missing


def dataset_type(cfg: dict, option: str) -> type:
    """Return the class of a data set's config, at ``option``; raise an :class:`InputError` if there is none."""
    kind = cfg.get('type')
    if kind is None:
        raise InputError(f'{option} has no type: set it, for example to CocoDataset')
    if inspect.isclass(kind):
        return kind
    found = DATASETS.get(kind)
    if found is None:
        raise InputError(f"{option}.type: no data set class '{kind}' is registered; is a custom_imports missing?")
    return found


def innermost_dataset(dataset: ConfigType) -> ConfigType:
    """Return the config of the data set inside wrappers such as ``RepeatDataset``."""
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    return dataset


def test_dataset(cfg: Config) -> ConfigDict:
    """Config of the data set of ``test_dataloader``, without wrappers; one that joins others is an error."""
    dataset = innermost_dataset(cfg.test_dataloader.dataset)
    if 'datasets' in dataset:
        raise InputError(
            'test_dataloader.dataset joins several data sets, and this works with one: give a config that names one'
        )
    return dataset


def dataset_meta(cfg: Config) -> dict:
    """``classes`` and ``palette`` of the test data set, if it has them."""
    dataset = test_dataset(cfg)
    with DATASETS.switch_scope_and_registry(cfg.get('default_scope')) as registry:
        kind = class_of(dataset, registry)
    return {**(kind.METAINFO or {}), **(dataset.get('metainfo') or {})}


def config_images(cfg: Config, num_images: int, dataset: ConfigType = None) -> Iterator[dict]:
    """Load ``num_images`` images or fewer, spread evenly over a data set, in batches of one for a preprocessor.

    The test pipeline loads them; the data set is by default that of ``test_dataloader``.
    """
    pipeline = [step for step in test_dataset(cfg).pipeline if type_name(step) != 'LoadAnnotations']
    built = DATASETS.build({**(dataset or test_dataset(cfg)), 'pipeline': pipeline, 'test_mode': True})
    count = min(num_images, len(built))
    return (pseudo_collate([built[i * len(built) // count]]) for i in range(count))


def coco_sources(cfg: dict, option: str) -> Iterator[CocoSource]:
    """Yield the data sets in COCO's format inside a data set's config at ``option``, through any wrappers.

    A data set of another format, or on remote storage, is left out with one line in the log.
    """
    kind = dataset_type(cfg, option)
    if 'dataset' in cfg:
        yield from coco_sources(cfg['dataset'], f'{option}.dataset')
    elif 'datasets' in cfg:
        for index, inner in enumerate(cfg['datasets']):
            yield from coco_sources(inner, f'{option}.datasets.{index}')
    elif inspect.isclass(kind) and issubclass(kind, BaseDataset):
        if source := _source(cfg, kind, option):
            yield source
    else:
        print_log(f'{option}: {kind.__name__} is not a data set of MMEngine and is not checked', logger='current')


def _source(cfg: dict, kind: type[BaseDataset], option: str) -> CocoSource | None:
    dataset = _built_without_data(cfg, kind, option)
    if not dataset.ann_file:
        raise InputError(f'{option}.ann_file is empty: set it to the annotation file')
    if is_remote(dataset.ann_file, cfg.get('backend_args')):
        print_log(f'{option}: {dataset.ann_file} is not on the local disk and is not checked', logger='current')
        return None
    _check_annotation_file(dataset, option)
    is_panoptic = issubclass(kind, CocoInstancePanopticDataset)
    reads_as_coco = is_panoptic or (
        issubclass(kind, CocoDataset)
        and kind.load_data_list is CocoDataset.load_data_list
        and kind.parse_data_info is CocoDataset.parse_data_info
    )
    if not reads_as_coco:
        print_log(f'{option}: {kind.__name__} reads a format of its own and is not checked', logger='current')
        return None
    if 'img' not in dataset.data_prefix:
        raise InputError(
            f'{option}.data_prefix does not name the image folder: set --cfg-options {option}.data_prefix.img=DIR'
        )
    fields = dict(
        option=option,
        ann_file=dataset.ann_file,
        image_folder=dataset.data_prefix['img'],
        classes=tuple(dataset.metainfo.get('classes', ())),
        filter_cfg=dict(dataset.filter_cfg or {}),
        test_mode=dataset.test_mode,
        indices=cfg.get('indices'),
        metainfo=dataset.metainfo,
        **_mask_loading(cfg.get('pipeline'), option),
    )
    if is_panoptic:
        return PanopticSource(**{**fields, **_panoptic_fields(dataset, option)})
    return CocoSource(**fields)


def _built_without_data(cfg: dict, kind: type, option: str) -> BaseDataset:
    """The data set, which has joined its paths and read nothing."""
    classes = (cfg.get('metainfo') or {}).get('classes')
    if isinstance(classes, str):
        raise InputError(
            f"{option}.metainfo.classes is the string '{classes}': give a tuple of names, such as ('{classes}',)"
        )
    cfg = copy.deepcopy(cfg)
    cfg.update(lazy_init=True, pipeline=[], type=kind)
    try:
        return DATASETS.build(cfg)
    except (TypeError, ValueError, AssertionError, RuntimeError, ImportError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f'{option} is not a valid config of {kind.__name__}: {reason}') from error


def _check_annotation_file(dataset: BaseDataset, option: str) -> None:
    if os.path.isfile(dataset.ann_file):
        return
    data_root = dataset.data_root or ''
    if data_root and not os.path.isdir(data_root) and not os.path.exists(dataset.ann_file):
        raise missing('data folder', data_root, f'{option}.data_root=DIR')
    check_not_yolo(dataset.ann_file)
    if data_root:
        check_not_yolo(data_root)
    raise missing('annotation file', dataset.ann_file, f'{option}.ann_file=FILE')


def _panoptic_fields(dataset: CocoInstancePanopticDataset, option: str) -> dict:
    if not os.path.isfile(dataset.panoptic_ann_file):
        raise missing('panoptic file', dataset.panoptic_ann_file, f'{option}.panoptic_ann_file=FILE')
    info = dataset.metainfo
    if tuple(info['classes']) != (*info['thing_classes'], *info['stuff_classes']):
        raise InputError(
            f'{option}.metainfo.classes are not its thing_classes and then its stuff_classes: set all three, the same '
            'in every data set'
        )
    return dict(
        classes=tuple(info['thing_classes']),
        panoptic_ann_file=dataset.panoptic_ann_file,
        png_folder=dataset.data_prefix.get('seg', ''),
        stuff_classes=tuple(info['stuff_classes']),
    )


def _mask_loading(pipeline: list | None, option: str) -> dict:
    """The fields of a :class:`CocoSource` that depend on the pipeline."""
    for index, transform in enumerate(pipeline or []):
        name = type_name(transform)
        if name == 'LoadEmptyAnnotations':
            return dict(labelled=False)
        if name in ('LoadAnnotations', 'LoadInstancesAndPanopticSeg', 'LoadMaskOrBoxAnnotations'):
            if not transform.get('with_mask', False):
                return dict(loads_masks=False)
            return dict(
                loads_masks=True,
                poly2mask=f'{option}.pipeline.{index}.poly2mask',
                polygons_only=not transform.get('poly2mask', True),
                boxes_suffice=name == 'LoadMaskOrBoxAnnotations',
                boxes_only=transform.get('boxes_only', False),
            )
    return {}
