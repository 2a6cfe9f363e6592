"""Recognises the published models by the parameters of a checkpoint."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import NamedTuple

from mmengine.config import Config
from torch import Size, Tensor

from mmdet_sag.checkpoints.zoo import build_without_weights, config_root
from mmdet_sag.errors import InputError
from mmdet_sag.models.backbones import VoVNet
from mmdet_sag.models.detectors import CenterMask

SEMANTIC_LOGITS = 'semantic_head.conv_logits.weight'
# Folders below configs/ and names in them.
CONFIGS = ('centermask', 'centermask_lite'), '*_fpn_ms-?x_coco.py'
PANOPTIC_CONFIGS = ('panoptic_centermask',), '*_fpn_ms-?x_coco-panoptic.py'
FIRST_CONFIGS = ('centermask_first',), '*_fpn_*x_coco.py'


class ZooModel(NamedTuple):
    """A model that a file can hold.

    ``name`` is the path of a detector's config below ``configs/``, or the name of a backbone. ``shapes`` are those of
    its parameters and statistics, without the counters of norm layers.
    """

    name: str
    config: Config
    shapes: Mapping[str, Size]

    def differences(self, state_dict: Mapping[str, Tensor]) -> dict[str, list[str]]:
        """Return the names of parameters that differ from those of this model, by the kind of difference."""
        shapes = self.shapes
        misshapen = [key for key, value in state_dict.items() if key in shapes and value.shape != shapes[key]]
        return {
            'missing': [key for key in shapes if key not in state_dict],
            'unmapped': [key for key in state_dict if key not in shapes],
            'of another shape': [
                f'{key} {tuple(state_dict[key].shape)} instead of {tuple(shapes[key])}' for key in misshapen
            ],
        }


def recognise_detector(state_dict: Mapping[str, Tensor], configs: tuple[Sequence[str], str] = CONFIGS) -> ZooModel:
    """Find the published detector that has these parameters, by this package's names.

    Args:
        state_dict: The parameters, with any number of classes, which the result's config has too.
        configs: Folders below ``configs/``, and pattern of the configs in them; the longest schedule comes first.

    Raises:
        InputError: No model has exactly these parameters. The message names the closest one.
    """
    folders, pattern = configs
    names = [f'{folder}/{path.name}' for folder in folders for path in (config_root() / folder).glob(pattern)]
    names.sort(reverse=True)
    logits = state_dict.get('bbox_head.conv_cls.weight')
    if logits is None or logits.ndim == 0:
        return _recognise(state_dict, map(_detector, names))
    models = (_with_class_count(_detector(name), len(logits)) for name in names)
    semantic_logits = state_dict.get(SEMANTIC_LOGITS)
    if semantic_logits is not None and semantic_logits.ndim and len(semantic_logits) > 1:
        models = (_with_stuff_count(model, len(logits), len(semantic_logits) - 1) for model in models)
    return _recognise(state_dict, models)


def recognise_backbone(state_dict: Mapping[str, Tensor]) -> ZooModel:
    """Find the backbone that has these parameters, as :func:`recognise_detector` does for detectors."""
    return _recognise(state_dict, (_backbone(arch) for arch in (*VoVNet.arch_settings, None)))


def _recognise(state_dict: Mapping[str, Tensor], models: Iterable[ZooModel]) -> ZooModel:
    closest, fewest, least = '', {}, float('inf')
    for model in models:
        differences = model.differences(state_dict)
        count = sum(map(len, differences.values()))
        if count == 0:
            return model
        if count < least:
            closest, fewest, least = model.name, differences, count
    listed = '; '.join(f'{len(keys)} {kind}: {_listed(keys)}' for kind, keys in fewest.items() if keys)
    raise InputError(f'these are the parameters of no known model; for {closest}, the closest, {listed}')


@cache
def _detector(name: str) -> ZooModel:
    return _with_shapes(name, Config.fromfile(config_root() / name))


def _with_class_count(model: ZooModel, num_classes: int) -> ZooModel:
    config = copy.deepcopy(model.config)
    for head in (config.model.bbox_head, config.model.roi_head.mask_head, config.model.roi_head.mask_iou_head):
        if head is not None:
            head.num_classes = num_classes
    shapes = {
        key: Size((num_classes, *shape[1:])) if key.rpartition('.')[0] in CenterMask.class_layers else shape
        for key, shape in model.shapes.items()
    }
    return ZooModel(model.name, config, shapes)


def _with_stuff_count(model: ZooModel, num_things: int, num_stuff: int) -> ZooModel:
    for head in (model.config.model.semantic_head, model.config.model.panoptic_fusion_head):
        head.update(num_things_classes=num_things, num_stuff_classes=num_stuff)
    shapes = {
        key: Size((num_stuff + 1, *shape[1:])) if key.startswith('semantic_head.conv_logits.') else shape
        for key, shape in model.shapes.items()
    }
    return model._replace(shapes=shapes)


@cache
def _backbone(arch: str | None) -> ZooModel:
    if arch is None:
        return _with_shapes('MobileNetV2 backbone', Config(dict(model=dict(type='HeadlessMobileNetV2'))))
    return _with_shapes(f'{arch} backbone', Config(dict(model=dict(type='VoVNet', arch=arch))))


def _with_shapes(name: str, config: Config) -> ZooModel:
    model = ZooModel(name, config, {})
    parameters = build_without_weights(config).state_dict().items()
    # No published file counts the batches of its norm layers.
    return model._replace(
        shapes={key: value.shape for key, value in parameters if not key.endswith('.num_batches_tracked')}
    )


def _listed(keys: list[str], limit: int = 10) -> str:
    return ', '.join(keys[:limit]) + (', ...' if len(keys) > limit else '')
