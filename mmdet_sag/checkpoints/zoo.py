"""The configs of the published models, by short names."""

import difflib
from pathlib import Path

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import nn

from ..errors import InputError

# Folders below configs/.
_INSTANCE_FOLDERS = ('centermask_lite', 'centermask', 'centermask_first', 'centermask_any', 'sag_mask')


def build_without_weights(config: Config) -> nn.Module:
    """Build a model on PyTorch's ``meta`` device, without memory for its parameters."""
    with torch.device('meta'), DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(config.model)


def config_root() -> Path:
    """Return the folder of the configs, of an installed package or of a clone."""
    package = Path(__file__).resolve().parents[1]
    for root in (package / '.mim' / 'configs', package.parent / 'configs'):
        if root.is_dir():
            return root
    raise InputError(f'{package}: no configs beside the package; install mmdet_sag again, or use a clone')


def find_config(name: str) -> Path:
    """Find a config of the package by its name, with or without its folder: ``centermask_lite/centermask-lite_demo``.

    ``mmdet_sag::`` before and ``.py`` behind it may be there.

    Raises:
        InputError: No config has this name.
    """
    root = config_root()
    paths = [path for path in sorted(root.rglob('*.py')) if '_base_' not in path.parts]
    wanted = name.removeprefix('mmdet_sag::').removesuffix('.py')
    for path in paths:
        if wanted in (path.stem, path.relative_to(root).as_posix().removesuffix('.py')):
            return path
    close = difflib.get_close_matches(Path(wanted).name, [path.stem for path in paths], n=1, cutoff=0.8)
    hint = f": did you mean '{close[0]}'?" if close else ': check the path'
    raise InputError(f'config {name} does not exist, and no config of the package has this name{hint}')


def zoo_configs() -> dict[str, Path]:
    """Paths of the configs of instance segmentation models on COCO, by their names."""
    paths = [path for folder in _INSTANCE_FOLDERS for path in sorted((config_root() / folder).glob('*_coco.py'))]
    return {path.stem: path for path in paths}


def find_zoo_config(model: str) -> Path:
    """Find a config by its name or the start of its name, such as ``centermask-lite_v39``.

    If a model has several schedules, the longest is taken.
    """
    configs = zoo_configs()
    name = Path(model).name.removesuffix('.py')
    if name in configs:
        return configs[name]
    found = [stem for stem in configs if stem.startswith(f'{name}_')]
    found = found or [stem for stem in configs if stem.startswith(name)]
    models = {_short_name(stem) for stem in found}
    if len(models) == 1:
        return configs[max(found)]
    if models:
        raise InputError(f"--model '{model}' may be {', '.join(sorted(models))}: give one of them")
    if 'panoptic' in name:
        raise InputError(
            f"--model '{model}': panoptic models need stuff annotations, which convert-data does not make: take an "
            'instance model, such as centermask_v39, or see docs/datasets.md for a config by hand'
        )
    shown = list(dict.fromkeys(map(_short_name, configs)))
    close = difflib.get_close_matches(name, shown, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'?" if close else 'take one of them'
    raise InputError(f"--model '{model}' is not in the zoo ({', '.join(shown)}): {hint}")


def _short_name(stem: str) -> str:
    """The name of a model without its schedule: that of RTMDet's configs names no neck."""
    return stem.split('_fpn_')[0].split('_8xb')[0]
