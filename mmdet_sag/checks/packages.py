"""Checks of the packages that parts of a config need and that may not be installed."""

import importlib.util
import re
from pathlib import Path
from typing import Any

from mmcv.image import io as image_io

from ..errors import InputError
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
