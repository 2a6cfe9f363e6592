"""Checks of a model's config: its classes, its class count, and whether the data have what its heads learn from."""

import difflib
from collections.abc import Iterable

from mmdet.registry import MODELS

from ..datasets.coco_source import CocoSource, PanopticSource
from ..errors import InputError
from ..models.model_config import config_parts, option_value, type_name

# The heads whose num_classes counts the data set's classes; an RPN's counts one.
_HEADS = ('bbox_head', 'mask_head', 'mask_iou_head')
_PANOPTIC_HEADS = ('semantic_head', 'panoptic_fusion_head')
_PARTS = (*_HEADS, 'model', 'backbone', 'neck', 'rpn_head', 'roi_head', 'bbox_roi_extractor', 'mask_roi_extractor')


def check_types(model: dict) -> None:
    """Check that a model has a type, and that the classes of its main parts are registered."""
    for option, name, cfg in config_parts(model, 'model', 'model'):
        if name not in _PARTS:
            continue
        kind = cfg.get('type')
        if kind is None and name == 'model':
            raise InputError('model has no type: name the class to build')
        if isinstance(kind, str) and MODELS.get(kind) is None:
            close = [] if '.' in kind else difflib.get_close_matches(kind, MODELS.module_dict, n=1)
            package = f'{kind.split(".")[0]} not installed' if '.' in kind else 'a custom_imports missing'
            remedy = f"did you mean '{close[0]}'?" if close else f'is {package}?'
            raise InputError(f"{option}.type: no class '{kind}' is registered; {remedy}")


def check_class_counts(model: dict, counts: dict[str, int], option: str) -> None:
    """Check the heads of a model against the :attr:`CocoSource.class_counts` of the data set at ``option``."""
    for key, expected in counts.items():
        heads = _HEADS if key == 'num_classes' else _PANOPTIC_HEADS
        found = {f'{p}.{key}': option_value(cfg, key) for p, name, cfg in config_parts(model, 'model') if name in heads}
        wrong = {place: count for place, count in found.items() if count not in (None, expected)}
        if wrong:
            counted = ', '.join(f'{place} is {count}' for place, count in wrong.items())
            options = ' '.join(f'{place}={expected}' for place in wrong)
            what = key.removeprefix('num_').replace('things', 'thing')
            raise InputError(
                f'{counted}, but {option} has {expected} {what.replace("_", " ")}: set --cfg-options {options}, or '
                f'correct {option}.metainfo.{what}'
            )


def check_constructor(model: dict, optim_wrapper: dict) -> None:
    """Check that the constructor of the optimizer's groups knows the backbone, by whose layers it sets the rates."""
    name = type_name(dict(type=optim_wrapper.get('constructor')))
    backbone = type_name(model.get('backbone') or {})
    if name == 'LearningRateDecayOptimizerConstructor' and 'ConvNeXt' not in backbone:
        raise InputError(
            f'optim_wrapper.constructor: {name} knows the layers of ConvNeXt alone, and model.backbone is {backbone}: '
            'set --cfg-options optim_wrapper.constructor=DefaultOptimWrapperConstructor'
        )


def check_targets(model: dict, dataset: dict, option: str, sources: Iterable[CocoSource]) -> None:
    """Check that training data have what the heads of a model learn from.

    A RoI head that predicts masks learns from masks (some one-stage models learn masks from boxes alone), a semantic
    head from panoptic annotations. ``sources`` are the data sets in ``dataset``, whose place is ``option``.
    """
    if 'semantic_head' in model:
        for transform in dataset.get('pipeline') or []:
            if not transform.get('with_seg', type_name(transform) != 'LoadAnnotations'):
                raise InputError(
                    f'the model has a semantic head, but the pipeline of {option} loads no semantic segmentation: use '
                    'LoadInstancesAndPanopticSeg'
                )
    mask_heads = {
        place: head
        for place, name, head in config_parts(model, 'model')
        if (name == 'mask_head' and '.roi_head.' in place)
        or type_name(head) in ('PointCenterMaskHead', 'PointCenterMaskFCOSHead')
    }
    masks_only = next((place for place, head in mask_heads.items() if not head.get('loss_boxes')), None)
    for source in sources:
        if 'semantic_head' in model and not isinstance(source, PanopticSource):
            raise InputError(
                f'the model has a semantic head, but {source.option} has no panoptic annotations: set its type to '
                'CocoInstancePanopticDataset, with panoptic_ann_file'
            )
        if mask_heads and source.loads_masks is False:
            raise InputError(
                f'the model has a mask head, but the pipeline of {source.option} loads no masks: set '
                'with_mask=True in its LoadAnnotations'
            )
        if masks_only and source.boxes_suffice:
            raise InputError(
                f'the pipeline of {source.option} loads objects without mask, and {masks_only} has no loss_boxes to '
                'learn from boxes: inherit configs/_base_/models/box_supervision.py, as configs/box_supervised does'
            )


def check_mask_iou_head(model: dict, data_sets: Iterable[tuple[CocoSource, dict]]) -> None:
    """Check that a MaskIoU head has a mask to learn from; without one, it would rank masks at random.

    ``data_sets`` are the training data sets with the content of their annotation files.
    """
    labelled = [(source, content) for source, content in data_sets if source.labelled]
    if not labelled or any(
        not source.boxes_suffice
        or (not source.boxes_only and any(item.get('segmentation') for item in content['annotations']))
        for source, content in labelled
    ):
        return
    for place, name, _ in config_parts(model, 'model'):
        if name == 'mask_iou_head':
            raise InputError(
                f'{place} learns from masks, and no training data have any: set --cfg-options {place}=None, so that '
                'masks are ranked by the scores of their boxes'
            )
