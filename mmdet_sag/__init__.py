"""SAG-Mask and the CenterMask family for MMDetection: importing this package registers everything."""

from importlib import import_module
from types import ModuleType

# Finds the operators behind mmcv.ops, also for a clone that is not installed.
import mmdet_sag_operators

from .registration import register_with_mmdet
from .version import __version__

__all__ = ['__version__', 'cpu', 'datasets', 'engine', 'evaluation', 'models', 'visualization']

register_with_mmdet()


def __getattr__(name: str) -> ModuleType:
    # Subpackages are imported when they are first used: most need MMDetection, which takes seconds to import.
    if name in __all__:
        return import_module(f'{__name__}.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
