"""Checks of the packages that parts of a config need and that may not be installed."""

import importlib.util
import os
import re
from pathlib import Path
from typing import Any

from mmcv.image import io as image_io
from mmengine.config import Config

from ..errors import InputError
from ..fileio import is_remote
from ..models.model_config import config_parts, type_name

# By class: the module that it imports, how to install it, and what does without.
_NEEDED = {
    'CocoPanopticMetric': ('panopticapi', '--no-deps panopticapi-lite', 'use StandaloneCocoPanopticMetric'),
    'LoadPanopticAnnotations': ('panopticapi', '--no-deps panopticapi-lite', 'use LoadInstancesAndPanopticSeg'),
    'CityScapesMetric': ('cityscapesscripts', 'cityscapesscripts', 'use UnroundedCocoMetric'),
    'Albu': ('albumentations', 'albumentations', 'leave the transform out'),
    'Corrupt': ('imagecorruptions', 'imagecorruptions', 'leave the transform out'),
    'InstaBoost': ('instaboostfast', 'instaboostfast', 'leave the transform out'),
    **{name: ('lvis', 'lvis', '') for name in ('LVISMetric', 'LVISDataset', 'LVISV05Dataset', 'LVISV1Dataset')},
    **{
        f'{name}VisBackend': (name.lower(), name.lower(), 'leave the backend out of visualizer.vis_backends')
        for name in ('Wandb', 'Tensorboard', 'MLflow', 'ClearML', 'Neptune', 'DVCLive', 'Aim')
    },
}

# What to install for the scope mmseg. MMSegmentation does not say that it imports the other two.
_MMSEG = 'mmsegmentation ftfy regex'


def check_packages(cfg: Any, option: str) -> None:
    """Check that packages are installed that the config of a data set, an evaluator or a visualizer needs."""
    for place, _, part in config_parts(cfg, option):
        name = type_name(part)
        if name in _NEEDED:
            module, package, other = _NEEDED[name]
            if importlib.util.find_spec(module) is None:
                remedy = f', or {other}' if other else ''
                raise InputError(f"{place}.type: {name} needs {module}: run 'pip install {package}'{remedy}")
        if name.startswith('LVIS'):
            _check_lvis(place, name)
        if 'imdecode_backend' in part:
            _check_decoder(f'{place}.imdecode_backend', part['imdecode_backend'])


def check_scope(scope: str) -> None:
    """Check that the package is installed whose classes or configs a config names, such as ``mmseg``."""
    if importlib.util.find_spec(scope) is None:
        package = _MMSEG if scope == 'mmseg' else scope
        raise InputError(f"the config needs {package.split()[0]}: run 'pip install {package}'")


def check_is_detector(cfg: Config) -> None:
    """Check that a config is not one of MMSegmentation, whose models have no instances."""
    if cfg.get('default_scope') == 'mmseg':
        raise InputError(
            'the config is of mmseg, and this is for detectors: train.py, test.py, export.py and report.py take it'
        )


def check_other_package(cfg: Config, mode: str) -> None:
    """Check what a run (``mode``: ``'train'`` or ``'test'``) of another package's config needs before it starts.

    It needs the package that ``default_scope`` names, and the folders of its data.
    """
    check_scope(cfg.default_scope)
    for phase in ('train', 'val') if mode == 'train' else ('test',):
        option = f'{phase}_dataloader.dataset'
        for place, _, part in config_parts((cfg.get(f'{phase}_dataloader') or {}).get('dataset'), option):
            for folder in (part.get('data_prefix') or {}).values():
                path = os.path.join(part.get('data_root') or '', folder)
                if not is_remote(path, part.get('backend_args')) and not os.path.isdir(path):
                    raise InputError(
                        f"folder '{path}' ({place}.data_prefix) does not exist: put it or a link there, or set "
                        f'--cfg-options {place}.data_root=DIR'
                    )


def _check_lvis(place: str, name: str) -> None:
    """Check the package ``lvis``, which on PyPI is older than NumPy 1.24."""
    for path in map(Path, importlib.util.find_spec('lvis').submodule_search_locations or []):  # type: ignore[union-attr]
        file = path / 'eval.py'
        if file.is_file() and re.search(r'\bnp\.float\b', file.read_text(encoding='utf-8')):
            raise InputError(
                f'{place}.type: {name} needs the package lvis, which uses np.float, and NumPy has that no more: run '
                rf"""sed -i 's/np\.float\b/float/' '{file}'"""
            )


def _check_decoder(place: str, backend: object) -> None:
    if backend not in image_io.supported_backends:
        reason = f'is {backend!r}, which mmcv does not have'
    elif backend == 'tifffile' and image_io.tifffile is None:
        reason = "needs tifffile: run 'pip install tifffile'"
    elif backend == 'turbojpeg' and image_io.jpeg is None:
        reason = "is 'turbojpeg', which reads JPEG files alone, and works after mmcv.use_backend('turbojpeg') only"
    else:
        return
    raise InputError(f'{place} {reason}: set --cfg-options {place}=cv2')
