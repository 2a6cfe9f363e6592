"""Registers the classes of this package in MMDetection's registries."""

import importlib.util
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType

REGISTRIES = 'mmdet.registry'
# The modules that fill each registry.
LOCATIONS = {
    'DATASETS': 'mmdet_sag.datasets.coco_instance_panoptic',
    'DATA_SAMPLERS': 'mmdet_sag.datasets.samplers',
    'HOOKS': 'mmdet_sag.engine.hooks',
    'LOOPS': 'mmdet_sag.engine.runner',
    'METRICS': 'mmdet_sag.evaluation',
    'MODELS': 'mmdet_sag.models',
    'OPTIMIZERS': 'mmdet_sag.cpu',
    'TRANSFORMS': 'mmdet_sag.datasets.transforms',
    'VISUALIZERS': 'mmdet_sag.visualization',
}


def register_with_mmdet() -> None:
    """Add the modules of this package to those that MMDetection's registries import when they are first asked.

    MMDetection takes seconds to import, which commands that need no model should not: if it is not imported yet, this
    happens as soon as it is.
    """
    if REGISTRIES in sys.modules:
        _add_locations(sys.modules[REGISTRIES])
    elif not any(isinstance(finder, _RegistriesFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _RegistriesFinder())


class _RegistriesFinder:
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != REGISTRIES:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def run_and_register(module: ModuleType) -> None:
            run(module)
            _add_locations(module)

        spec.loader.exec_module = run_and_register  # type: ignore[method-assign]
        return spec


def _add_locations(registries: ModuleType) -> None:
    from .checkpoints.allowed_calls import allow_mmengine_checkpoints
    from .checkpoints.loaders import register_loaders
    from .operators import check_operators

    check_operators()
    allow_mmengine_checkpoints()
    register_loaders()
    for name, location in LOCATIONS.items():
        registry = getattr(registries, name)
        if registry._imported:
            import_module(location)
        elif location not in registry._locations:
            registry._locations.append(location)
