"""Checks of data, configs and checkpoints.

Each check raises an ``InputError``, whose message is one line that names the thing and the remedy. In all of them,
``option`` is the place of something in the config, as ``--cfg-options`` takes it, such as ``train_dataloader.dataset``.
"""

from .full_check import DataSetReport, check_data_sets, check_files
from .packages import check_is_detector
from .problem_kinds import PROBLEM_KINDS
from .repair import repair_coco, write_coco
from .run import check_inputs, hand_over

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
