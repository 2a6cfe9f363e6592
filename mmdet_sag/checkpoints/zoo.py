"""The configs of the published models, and which of them a set of parameters belongs to."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import Size, Tensor, nn

from ..errors import InputError
from ..models.backbones import VoVNet
from ..models.detectors import CenterMask

SEMANTIC_LOGITS = 'semantic_head.conv_logits.weight'
# Folders below configs/ and names in them.
CONFIGS = ('centermask', 'centermask_lite'), '*_fpn_ms-?x_coco.py'
PANOPTIC_CONFIGS = ('panoptic_centermask',), '*_fpn_ms-?x_coco-panoptic.py'
FIRST_CONFIGS = ('centermask_first',), '*_fpn_*x_coco.py'


@dataclass(frozen=True)
class Differences:
    """How the parameters of a file differ from those of a model, by their names here."""

    missing: list[str]
    unmapped: list[str]
    misshapen: list[str]

    def __len__(self) -> int:
        return len(self.missing) + len(self.unmapped) + len(self.misshapen)

    def __str__(self) -> str:
        named = zip(('missing', 'unmapped', 'of another shape'), (self.missing, self.unmapped, self.misshapen))
        return '; '.join(f'{len(keys)} {what}: {_listed(keys)}' for what, keys in named if keys)


class ZooModel(NamedTuple):
    """A model that a file can hold: its name, its config, and the shapes of its parameters and statistics.

    ``name`` is the path of a detector's config below ``configs/``, or what a backbone is called.
    """

    name: str
    config: Config
    shapes: Mapping[str, Size]

    def build(self) -> nn.Module:
        """Build the model without memory for its parameters, which are on PyTorch's ``meta`` device."""
        with torch.device('meta'), DefaultScope.overwrite_default_scope('mmdet'):
            return MODELS.build(self.config.model)

    def compare(self, state_dict: Mapping[str, Tensor]) -> Differences:
        """List how parameters, by their names here, differ from this model's."""
        return Differences(
            [key for key in self.shapes if key not in state_dict],
            [key for key in state_dict if key not in self.shapes],
            [
                f'{key} {tuple(value.shape)} instead of {tuple(self.shapes[key])}'
                for key, value in state_dict.items()
                if key in self.shapes and value.shape != self.shapes[key]
            ],
        )


def config_root() -> Path:
    """Folder of the configs: that of an installed package, or that of a clone.

    Raises:
        InputError: If there is none.
    """
    package = Path(__file__).resolve().parents[1]
    for root in (package / '.mim' / 'configs', package.parent / 'configs'):
        if root.is_dir():
            return root
    raise InputError(f'{package}: no configs beside the package; install mmdet_sag again, or use a clone')


def recognise_detector(state_dict: Mapping[str, Tensor], configs: tuple[Sequence[str], str] = CONFIGS) -> ZooModel:
    """Find the published detector that has these parameters.

    Args:
        state_dict: The parameters by their names here. Their class count may be any, of panoptic models also that of
            stuff.
        configs: Folders below ``configs/`` and pattern of the configs to look at, the longest schedule first.

    Returns:
        The model, its config set to the parameters' class count.

    Raises:
        InputError: If no model has exactly these parameters. The message names the one that comes closest.
    """
    root = config_root()
    folders, pattern = configs
    paths = [path for folder in folders for path in (root / folder).glob(pattern)]
    names = sorted((path.relative_to(root).as_posix() for path in paths), reverse=True)
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
    closest, fewest = None, None
    for model in models:
        differences = model.compare(state_dict)
        if not differences:
            return model
        if fewest is None or len(differences) < len(fewest):
            closest, fewest = model, differences
    raise InputError(f'these are the parameters of no known model; for {closest.name}, the closest, {fewest}')


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
    # No published file counts the batches of its norm layers.
    shapes = {key: value.shape for key, value in model.build().state_dict().items() if not _counts_batches(key)}
    return model._replace(shapes=shapes)


def _counts_batches(key: str) -> bool:
    return key.endswith('.num_batches_tracked')


def _listed(keys: list[str], limit: int = 10) -> str:
    return ', '.join(keys[:limit]) + (', ...' if len(keys) > limit else '')
