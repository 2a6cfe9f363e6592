"""What a checkpoint file may call besides PyTorch's tensors: arrays of numbers, and MMEngine's logs.

Each name in a pickle stands for one of the objects below, never for NumPy's or MMEngine's own. NumPy trusts the state
that it is given: ``torch.load(weights_only=True)`` with NumPy's functions in its list loads arrays of objects out of
crafted bytes, and crashes. MMEngine's log needs ``getattr``, which leads to any object of the process.
"""

import math
import pickle
from collections.abc import Callable
from typing import Any, SupportsIndex

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from .reading import LOADS_SAFELY

_NUMBERS = frozenset(('b1', *(f'{kind}{size}' for kind in 'iu' for size in (1, 2, 4, 8)), 'f2', 'f4', 'f8'))


class NotAllowed(pickle.UnpicklingError):
    """A file wants something that is not in the list."""

    def __init__(self, what: str) -> None:
        # PyTorch shows it inside its own message.
        super().__init__(f'the checkpoint wants {what}, which is not allowed')
        self.what = what


class SavedDtype:
    """Stands for ``numpy.dtype``: the type of an array of numbers."""

    __slots__ = ('_code', '_order')

    def __init__(self, code: str, *copy: bool) -> None:
        if type(code) is not str or code not in _NUMBERS or len(copy) > 2:
            raise NotAllowed('an array of other things than numbers')
        self._code = code
        self._order: Any = '='

    def __setstate__(self, state: Any) -> None:
        plain = type(state) is tuple and len(state) == 8 and state[2:] == (None, None, None, -1, -1, 0)
        if not plain or type(state[1]) is not str or state[1] not in tuple('<>|='):
            raise NotAllowed('a type with parts')
        self._order = state[1]

    def dtype(self) -> np.dtype:
        """The NumPy type."""
        return np.dtype(self._code).newbyteorder(self._order)


class SavedArray(np.ndarray):
    """Stands for ``numpy.ndarray``: an array whose numbers are set once, from a file."""

    def __new__(cls, *args: Any) -> 'SavedArray':
        raise NotAllowed('numpy.ndarray on a buffer')

    def __setstate__(self, state: Any) -> None:
        if type(state) is not tuple or len(state) != 5 or vars(self).get('is_set', True):
            raise NotAllowed('to change an array')
        version, shape, dtype, is_fortran, data = state
        if version != 1 or type(is_fortran) not in (bool, int):
            raise NotAllowed('an array of another kind')
        data, dtype = _numbers(data, dtype, shape)
        self.is_set = True
        super().__setstate__((1, shape, dtype, bool(is_fortran), data))  # type: ignore[arg-type]

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        # It is written again as a plain array.
        return self.view(np.ndarray).__reduce_ex__(protocol)


class SavedHistory(HistoryBuffer):
    """Stands for MMEngine's ``HistoryBuffer``, and becomes one when it gets its numbers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise NotAllowed('HistoryBuffer on anything')

    def __setstate__(self, state: Any) -> None:
        if type(state) is not dict or type(state.get('max_length')) is not int:
            raise NotAllowed('a log without length')
        histories: list[Any] = [state.get(name) for name in ('_log_history', '_count_history')]
        if any(type(history) not in (SavedArray, np.ndarray) or history.ndim != 1 for history in histories):
            raise NotAllowed('a log of other things than numbers')
        # The statistics of the file are left out: they would become those of all logs of the process.
        self._set_default_statistics()
        self.max_length = state['max_length']
        self._log_history, self._count_history = (np.array(history) for history in histories)
        self.__class__ = HistoryBuffer


def _reconstruct_array(kind: type, shape: tuple, code: bytes | str) -> SavedArray:
    """Stand in for NumPy's ``_reconstruct``: make an empty array, whose state comes later."""
    if kind not in (SavedArray, np.ndarray) or shape != (0,) or code not in (b'b', 'b'):
        raise NotAllowed('an array of another kind')
    array = np.ndarray.__new__(SavedArray, (0,), np.int8)
    array.is_set = False
    return array


def _scalar(dtype: SavedDtype, data: bytes | str) -> np.generic:
    """Stand in for NumPy's ``scalar``: make one number."""
    return np.frombuffer(*_numbers(data, dtype, ()))[0]


def _array_from_buffer(data: bytes | bytearray, dtype: SavedDtype, shape: tuple, order: str) -> np.ndarray:
    """Stand in for NumPy's ``_frombuffer``: make an array of pickle's protocol 5."""
    if type(order) is not str or order not in ('C', 'F'):
        raise NotAllowed('an array of another kind')
    # A copy: the buffer may have other users.
    data = bytes(data) if type(data) is bytearray else data
    return np.frombuffer(*_numbers(data, dtype, shape)).reshape(shape, order='F' if order == 'F' else 'C')


def _history_method(owner: type, name: str) -> Callable:
    """Stand in for ``getattr``: a log names its methods through it."""
    if owner is not SavedHistory or type(name) is not str or name not in ('min', 'max', 'current', 'mean'):
        raise NotAllowed('attributes of objects')
    return getattr(HistoryBuffer, name)


def _numbers(data: object, dtype: object, shape: object) -> tuple[bytes, np.dtype]:
    """Check the bytes of an array, and return them with its type."""
    if type(dtype) is not SavedDtype:
        raise NotAllowed('an array of other things than numbers')
    if type(shape) is not tuple or len(shape) > 32 or any(type(n) is not int or not 0 <= n < 2**48 for n in shape):
        raise NotAllowed('an array of another shape')
    if type(data) is str:
        # Python 2 had no bytes; its texts are read as latin1.
        data = data.encode('latin1')
    numpy_dtype = dtype.dtype()
    if type(data) is not bytes or len(data) != math.prod(shape) * numpy_dtype.itemsize:
        raise NotAllowed('an array of another size than its numbers')
    return data, numpy_dtype


# NumPy 2 renamed the package; a file may come from either side of it.
ARRAY_CALLS: dict[str, Callable] = {
    'numpy.ndarray': SavedArray,
    'numpy.dtype': SavedDtype,
    **{f'numpy.{core}.multiarray._reconstruct': _reconstruct_array for core in ('core', '_core')},
    **{f'numpy.{core}.multiarray.scalar': _scalar for core in ('core', '_core')},
    **{f'numpy.{core}.numeric._frombuffer': _array_from_buffer for core in ('core', '_core')},
}
ALLOWED_CALLS: dict[str, Callable] = {
    **ARRAY_CALLS,
    'mmengine.logging.history_buffer.HistoryBuffer': SavedHistory,
    'builtins.getattr': _history_method,
}


def allow_mmengine_checkpoints() -> None:
    """Let ``torch.load`` read MMEngine's checkpoints with safe loading.

    Besides tensors, they contain the run's log (:class:`mmengine.logging.HistoryBuffer`) and NumPy numbers. These are
    read by stand-ins that check their input, so files gain no other ability. Before PyTorch 2.6, which does not load
    safely by default, this does nothing.
    """
    if LOADS_SAFELY:
        torch.serialization.add_safe_globals([(call, name) for name, call in ALLOWED_CALLS.items()])
