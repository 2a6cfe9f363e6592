"""Checks of data, configs and checkpoints.

Each check raises an ``InputError``, whose message is one line that names the thing and the remedy. In all of them,
``option`` is the place of something in the config, as ``--cfg-options`` takes it, such as ``train_dataloader.dataset``.
"""

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


def __getattr__(name: str) -> Any:
    # Of a folder, the full check needs no MMDetection, which takes seconds to import.
    if name in ('check_inputs', 'hand_over'):
        from . import run

        return getattr(run, name)
    if name == 'check_is_detector':
        from .packages import check_is_detector

        return check_is_detector
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
