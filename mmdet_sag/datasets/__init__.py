from importlib import import_module
from typing import Any

_MODULES = {'CocoInstancePanopticDataset': 'coco_instance_panoptic', 'SeededGroupMultiSourceSampler': 'samplers'}

__all__ = [*_MODULES]


def __getattr__(name: str) -> Any:
    # The readers of labels beside these classes need no MMDetection, which takes seconds to import.
    if name in _MODULES:
        return getattr(import_module(f'{__name__}.{_MODULES[name]}'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
