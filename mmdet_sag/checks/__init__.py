"""Checks of data, configs and checkpoints.

Each check raises an ``InputError``, whose message is one line that names the thing and the remedy. In all of them,
``option`` is the place of something in the config, as ``--cfg-options`` takes it, such as ``train_dataloader.dataset``.
"""

from importlib import import_module
from typing import Any

from .full_check import DataSetReport, check_data_sets, check_files
from .problem_kinds import PROBLEM_KINDS
from .repair import repair_coco, write_coco

__all__ = [
    'PROBLEM_KINDS',
    'DataSetReport',
    'check_data_sets',
    'check_files',
    'check_inputs',
    'check_is_detector',
    'hand_over',
    'repair_coco',
    'write_coco',
]
# Of a folder, the full check needs no MMDetection, which takes seconds to import.
_IMPORTED_LATER = dict(check_inputs='run', hand_over='run', check_is_detector='packages')


def __getattr__(name: str) -> Any:
    if name in _IMPORTED_LATER:
        return getattr(import_module(f'{__name__}.{_IMPORTED_LATER[name]}'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
