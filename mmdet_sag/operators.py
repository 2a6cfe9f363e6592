from importlib import import_module

import mmcv
import torch

from .errors import InputError


def check_operators() -> None:
    """Make sure that mmcv has compiled operators that work with the installed torch.

    Raises:
        InputError: If it has none (a plain ``pip install mmcv`` builds none when it sees no torch, and mmcv-lite never
            has any), or some that were built for another torch.
    """
    try:
        import_module('mmcv._ext')
    except ImportError as error:
        raise InputError(
            f'mmcv has no compiled operators for torch {torch.__version__} ({error}): build them with '
            '`pip install --no-build-isolation --no-cache-dir --force-reinstall --no-deps '
            f'mmcv=={mmcv.__version__}`, or see docs/install.md'
        ) from error
