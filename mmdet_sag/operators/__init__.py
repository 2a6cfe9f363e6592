import sys
from importlib import import_module
from importlib.util import find_spec

import mmcv
import torch

import mmdet_sag_operators

from ..errors import InputError


def check_operators() -> None:
    """Make sure that ``mmcv.ops`` has operators that work with the installed torch: mmcv's own or torchvision's.

    Torchvision's are not loaded, which takes seconds: where they are used, loading them says what they lack.
    """
    try:
        choice = mmdet_sag_operators.operators_choice()
    except ImportError as error:
        raise InputError(str(error)) from error
    if 'mmcv._ext' not in sys.modules and mmdet_sag_operators.is_stand_in(find_spec('mmcv._ext')):
        return
    try:
        import_module('mmcv._ext')
    except ImportError as error:
        remedy = f'set {mmdet_sag_operators.VARIABLE}=torchvision to do without them, or '
        raise InputError(
            f'mmcv has no compiled operators for torch {torch.__version__} ({error}): '
            f'{remedy if choice == "auto" else ""}build them with '
            '`pip install --no-build-isolation --no-cache-dir --force-reinstall --no-deps '
            f'mmcv=={mmcv.__version__}`, or see docs/install.md'
        ) from error


def operators_in_use() -> str:
    """Whose operators work behind ``mmcv.ops``, in words for a log."""
    operators = import_module('mmcv._ext')
    if hasattr(operators, 'torchvision'):
        return f"torchvision {operators.torchvision.__version__}'s, in the place of mmcv's compiled ones"
    return f"mmcv {mmcv.__version__}'s, compiled for CUDA {operators.get_compiling_cuda_version()}"
