import copy
import inspect
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log

from ..errors import InputError
from ..fileio import is_remote
from .coco_file import check_not_yolo
from .coco_instance_panoptic import CocoInstancePanopticDataset
from .panoptic_source import PanopticSource

_LOADERS = ('LoadAnnotations', 'mmdet.LoadAnnotations', 'LoadInstancesAndPanopticSeg')


@dataclass(frozen=True)
class CocoSource:
    """A data set in COCO's format as a config names it, with its paths joined by the data set class itself.

    Args:
        option: Place of the data set in the config, such as ``train_dataloader.dataset``: what ``--cfg-options`` takes.
        data_root: Folder that the config gives.
        ann_file: Annotation file.
        image_folder: Folder that file names in the annotation file are relative to.
        classes: Class names that the model is to learn, in the order of its outputs.
        filter_cfg: Which images the data set leaves out.
        test_mode: Whether the data set is for evaluation, where nothing is left out.
        loads_masks: Whether the pipeline loads masks; None where it loads annotations in a way of its own.
        poly2mask: Place in the config of the option that makes bitmaps of polygons; None where the pipeline loads no
            masks.
        polygons_only: Whether the pipeline keeps polygons, and ignores objects whose mask is an RLE.
        indices: Which images of the file are used, as MMEngine's data sets take it: the first so many, the last so
            many if negative, or those at certain places; None: all.
        panoptic: The panoptic annotations beside the file, where there are any.
        labelled: Whether the pipeline reads labels; the unlabelled images of semi-supervised training need none.
    """

    option: str
    data_root: str
    ann_file: str
    image_folder: str
    classes: tuple[str, ...]
    filter_cfg: dict
    test_mode: bool
    loads_masks: bool | None
    poly2mask: str | None = None
    polygons_only: bool = False
    indices: int | Sequence[int] | None = None
    panoptic: PanopticSource | None = None
    labelled: bool = True

    def of_indices(self, images: list[dict]) -> list[dict]:
        """Those of the images that ``indices`` selects, in its order.

        Args:
            images: Image entries that are left after the filter.

        Raises:
            InputError: There are fewer.
        """
        if self.indices is None:
            return images
        if isinstance(self.indices, int):
            return images[: self.indices] if self.indices >= 0 else images[self.indices :]
        if self.indices and not -len(images) <= min(self.indices) <= max(self.indices) < len(images):
            raise InputError(
                f"{self.option}.indices reach beyond the {len(images)} images of '{self.ann_file}' that its filter "
                'leaves: name fewer'
            )
        return [images[index] for index in self.indices]

    def require_image_folder(self) -> None:
        """Checks that the image folder is there.

        Raises:
            InputError: It is not.
        """
        if not os.path.isdir(self.image_folder or '.'):
            raise InputError(
                f"image folder '{self.image_folder}' does not exist: put the images or a link there, or set "
                f'--cfg-options {self.option}.data_prefix.img=DIR'
            )


def _panoptic_source(dataset: CocoInstancePanopticDataset, option: str) -> PanopticSource:
    if not os.path.isfile(dataset.panoptic_ann_file):
        raise InputError(
            f"panoptic file '{dataset.panoptic_ann_file}' does not exist: put it there, or set --cfg-options "
            f'{option}.panoptic_ann_file=FILE'
        )
    info = dataset.metainfo
    if tuple(info['classes']) != (*info['thing_classes'], *info['stuff_classes']):
        raise InputError(
            f'{option}.metainfo.classes are not its thing_classes and then its stuff_classes: set all three, the same '
            'in every data set'
        )
    return PanopticSource(
        option=option,
        ann_file=dataset.panoptic_ann_file,
        png_folder=dataset.data_prefix.get('seg', ''),
        thing_classes=tuple(info['thing_classes']),
        stuff_classes=tuple(info['stuff_classes']),
    )


def _mask_loading(pipeline: list | None, option: str) -> dict:
    """What a :class:`CocoSource` says about the labels and masks of a pipeline."""
    for index, transform in enumerate(pipeline or []):
        kind = transform.get('type')
        name = getattr(kind, '__name__', kind)
        if name in ('LoadEmptyAnnotations', 'mmdet.LoadEmptyAnnotations'):
            return dict(loads_masks=None, labelled=False)
        if name in _LOADERS:
            if not transform.get('with_mask', False):
                return dict(loads_masks=False)
            return dict(
                loads_masks=True,
                poly2mask=f'{option}.pipeline.{index}.poly2mask',
                polygons_only=not transform.get('poly2mask', True),
            )
    return dict(loads_masks=None)


def dataset_type(cfg: dict, option: str) -> type:
    """Finds the class of a data set's config.

    Args:
        cfg: Config of the data set.
        option: Its place in the whole config.

    Raises:
        InputError: There is no such class.
    """
    kind = cfg.get('type')
    if kind is None:
        raise InputError(f'{option} has no type: set it, for example to CocoDataset')
    if inspect.isclass(kind):
        return kind
    found = DATASETS.get(kind)
    if found is None:
        raise InputError(f"{option}.type: no data set class '{kind}' is registered; is a custom_imports missing?")
    return found


def _source(cfg: dict, kind: type, option: str) -> CocoSource | None:
    cfg = copy.deepcopy(cfg)
    pipeline = cfg.pop('pipeline', None)
    cfg.update(lazy_init=True, pipeline=[], type=kind)
    classes = (cfg.get('metainfo') or {}).get('classes')
    if isinstance(classes, str):
        raise InputError(
            f"{option}.metainfo.classes is the string '{classes}': give a tuple of names, such as ('{classes}',)"
        )
    try:
        dataset = DATASETS.build(cfg)
    except (TypeError, ValueError, AssertionError, RuntimeError, ImportError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f'{option} is not a valid config of {kind.__name__}: {reason}') from error

    backend_args = cfg.get('backend_args')
    if not dataset.ann_file:
        raise InputError(f'{option}.ann_file is empty: set it to the annotation file')
    if is_remote(dataset.ann_file, backend_args):
        print_log(f'{option}: {dataset.ann_file} is not on the local disk and is not checked', logger='current')
        return None
    data_root = dataset.data_root or ''
    if data_root and not os.path.isdir(data_root) and not os.path.exists(dataset.ann_file):
        raise InputError(
            f"data folder '{data_root}' does not exist: put the data or a link there, or set --cfg-options "
            f'{option}.data_root=DIR'
        )
    if not os.path.isfile(dataset.ann_file):
        check_not_yolo(dataset.ann_file)
        if data_root:
            check_not_yolo(data_root)
        raise InputError(
            f"annotation file '{dataset.ann_file}' does not exist: put it there, or set --cfg-options "
            f'{option}.ann_file=FILE'
        )
    stock = (
        issubclass(kind, CocoDataset)
        and kind.load_data_list is CocoDataset.load_data_list
        and kind.parse_data_info is CocoDataset.parse_data_info
    )
    # Its instances are read as by CocoDataset.
    is_panoptic = issubclass(kind, CocoInstancePanopticDataset)
    if not stock and not is_panoptic:
        print_log(f'{option}: {kind.__name__} reads a format of its own and is not checked', logger='current')
        return None
    if 'img' not in dataset.data_prefix:
        raise InputError(
            f'{option}.data_prefix does not name the image folder: set --cfg-options {option}.data_prefix.img=DIR'
        )
    return CocoSource(
        option=option,
        data_root=data_root,
        ann_file=dataset.ann_file,
        image_folder=dataset.data_prefix['img'],
        classes=tuple(dataset.metainfo.get('thing_classes' if is_panoptic else 'classes', ())),
        filter_cfg=dict(dataset.filter_cfg or {}),
        test_mode=dataset.test_mode,
        indices=cfg.get('indices'),
        panoptic=_panoptic_source(dataset, option) if is_panoptic else None,
        **_mask_loading(pipeline, option),
    )


def coco_sources(cfg: dict, option: str) -> Iterator[CocoSource]:
    """Finds the data sets in COCO's format inside a data set's config, through any wrappers.

    A data set of another format, or on remote storage, is left out with one line in the log.

    Args:
        cfg: Config of a data set or of a wrapper such as ``RepeatDataset``.
        option: Place of ``cfg`` in the whole config.

    Raises:
        InputError: A data set's class is unknown, its config is not valid, or its files are missing.
    """
    kind = dataset_type(cfg, option)
    if 'dataset' in cfg:
        yield from coco_sources(cfg['dataset'], f'{option}.dataset')
    elif 'datasets' in cfg:
        for index, inner in enumerate(cfg['datasets']):
            yield from coco_sources(inner, f'{option}.datasets.{index}')
    elif inspect.isclass(kind) and issubclass(kind, BaseDataset):
        source = _source(cfg, kind, option)
        if source is not None:
            yield source
    else:
        print_log(f'{option}: {kind.__name__} is not a data set of MMEngine and is not checked', logger='current')
