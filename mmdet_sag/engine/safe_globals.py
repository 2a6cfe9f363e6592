import pickle
from typing import Callable

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.utils import digit_version

if digit_version(np.__version__) >= digit_version('2.0'):
    from numpy._core.multiarray import _reconstruct, scalar
else:
    from numpy.core.multiarray import _reconstruct, scalar

# What torch.load does unless told otherwise.
LOADS_SAFELY = digit_version(torch.__version__) >= digit_version('2.6')


def allow_mmengine_checkpoints() -> None:
    """Let ``torch.load`` read MMEngine's checkpoints with its safe loading left on.

    Besides tensors, MMEngine writes a run's log (:class:`mmengine.logging.HistoryBuffer`) and NumPy numbers into a
    checkpoint. Nothing is done before PyTorch 2.6, which does not load safely unless told to.
    """
    if not LOADS_SAFELY:
        return
    torch.serialization.add_safe_globals(
        [
            HistoryBuffer,
            (_history_buffer_method, 'builtins.getattr'),
            np.ndarray,
            np.dtype,
            *{type(np.dtype(code)) for code in '?bhilqBHILQefdU'},
            # NumPy 2 renamed the module; a checkpoint may come from either side of it.
            *((_reconstruct, f'{module}._reconstruct') for module in _MULTIARRAY),
            *((scalar, f'{module}.scalar') for module in _MULTIARRAY),
        ]
    )


_MULTIARRAY = ('numpy.core.multiarray', 'numpy._core.multiarray')


def _history_buffer_method(owner: type, name: str) -> Callable:
    # A HistoryBuffer refers to its methods through getattr. Allowing all of getattr would open every attribute of
    # every object to a file, and with it arbitrary code.
    if owner is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise pickle.UnpicklingError(f'the checkpoint wants attribute {name!r} of {owner!r}, which is not allowed')
    return getattr(owner, name)
