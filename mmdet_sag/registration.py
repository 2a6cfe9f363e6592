"""Registers the classes of this package in MMDetection's registries, and makes its configs known by their names."""

import importlib.util
import os.path
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import NamedTuple

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

    MMDetection and MMEngine's runner take seconds to import, which commands that need no model should not: what is not
    imported yet is completed as soon as it is.
    """
    _when_imported('mmdet.registry', _add_locations)
    _when_imported('mmengine.runner.checkpoint', _register_loaders)
    _when_imported('mmengine.config.config', _know_configs)
    _when_imported('mmengine.infer.infer', _know_models)


def _when_imported(name: str, function: Callable[[ModuleType], None]) -> None:
    """Call a function with a module, at once or as soon as the module is imported."""
    if name in sys.modules:
        function(sys.modules[name])
    else:
        sys.meta_path.insert(0, _Finder(name, function))


class _Finder(NamedTuple):
    """Finds one module once, to call a function after it has run."""

    name: str
    function: Callable[[ModuleType], None]

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def run_and_complete(module: ModuleType) -> None:
            run(module)
            self.function(module)

        spec.loader.exec_module = run_and_complete  # type: ignore[method-assign]
        return spec


def _add_locations(registries: ModuleType) -> None:
    from .checkpoints.allowed_calls import allow_mmengine_checkpoints
    from .operators import check_operators

    check_operators()
    allow_mmengine_checkpoints()
    for name, location in LOCATIONS.items():
        registry = getattr(registries, name)
        if registry._imported:
            import_module(location)
        elif location not in registry._locations:
            registry._locations.append(location)


def _register_loaders(module: ModuleType) -> None:
    from .checkpoints.loaders import register_loaders

    register_loaders()


def _know_configs(module: ModuleType) -> None:
    """Let ``_base_ = 'mmdet_sag::...'`` name an installed config, as ``'mmdet::...'`` does."""
    import_module('mmengine.config.utils').MODULE2PACKAGE['mmdet_sag'] = 'mmdet_sag'
    find = module.Config._get_cfg_path

    @wraps(find)
    def find_in_scope(cfg_path: str, filename: str) -> tuple[str, str | None]:
        try:
            path, scope = find(cfg_path, filename)
        except ModuleNotFoundError:
            from .checks.packages import check_scope

            check_scope(cfg_path.partition('::')[0])
            raise
        # Our classes are in MMDetection's registries.
        return path, 'mmdet' if scope == 'mmdet_sag' else scope

    module.Config._get_cfg_path = staticmethod(find_in_scope)


def _know_models(module: ModuleType) -> None:
    """Let ``DetInferencer`` find the models of our metafiles among MMDetection's."""
    inferencer = module.BaseInferencer
    models_of = inferencer._get_models_from_metafile

    @wraps(models_of)
    def models_of_both(folder: str) -> Iterator[dict]:
        yield from models_of(folder)
        if folder == inferencer._get_repo_or_mim_dir('mmdet'):
            own = inferencer._get_repo_or_mim_dir('mmdet_sag')
            for model in models_of(own):
                # Without weights, MMDetection warns and initializes the model.
                weights = os.path.join(own, model['Weights']) if 'Weights' in model else None
                yield {**model, 'Config': os.path.join(own, model['Config']), 'Weights': weights}

    inferencer._get_models_from_metafile = staticmethod(models_of_both)
