"""All that a checkpoint file may call, beyond the tensors of PyTorch: arrays of numbers, and MMEngine's logs.

Each name that a pickle may mention stands for one of the objects below, never for NumPy's or MMEngine's own: NumPy
makes objects out of bytes, or crashes, if it is given a state that it has not written itself.
"""

import math
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
from mmengine.logging import HistoryBuffer

_NUMBERS = frozenset(('b1', *(f'{kind}{size}' for kind in 'iu' for size in (1, 2, 4, 8)), 'f2', 'f4', 'f8'))
_STATISTICS = ('min', 'max', 'current', 'mean')


class NotAllowed(pickle.UnpicklingError):
    """A file wants something that is not on the list."""

    def __init__(self, what: str) -> None:
        # PyTorch shows it inside its own message.
        super().__init__(f'the checkpoint wants {what}, which is not allowed')
        self.what = what


class SavedDtype:
    """Stands for ``numpy.dtype``: the type of an array of numbers, as a pickle describes it."""

    __slots__ = ('_code', '_order')

    def __init__(self, code: str, *copy: bool) -> None:
        if type(code) is not str or code not in _NUMBERS or len(copy) > 2:
            raise NotAllowed('an array of other things than numbers')
        self._code, self._order = code, '='

    def __setstate__(self, state: tuple) -> None:
        if (
            type(state) is not tuple
            or len(state) != 8
            or state[2:] != (None, None, None, -1, -1, 0)
            or not _is_text(state[1], '<>|=')
        ):
            raise NotAllowed('a type with parts')
        self._order = state[1]

    def dtype(self) -> np.dtype:
        """The type itself, made anew."""
        if self._code not in _NUMBERS:
            raise NotAllowed('an array of other things than numbers')
        return np.dtype(self._code).newbyteorder(self._order)


class SavedArray(np.ndarray):
    """Stands for ``numpy.ndarray``: an array that gets its numbers from a file, once."""

    def __new__(cls, *args: Any) -> 'SavedArray':
        raise NotAllowed('numpy.ndarray on a buffer')

    def __setstate__(self, state: tuple) -> None:
        if type(state) is not tuple or len(state) != 5 or vars(self).get('is_set', True):
            raise NotAllowed('to change an array')
        version, shape, dtype, is_fortran, data = state
        dtype = _dtype(dtype)
        if version != 1 or type(is_fortran) not in (bool, int):
            raise NotAllowed('an array of another kind')
        data = _as_bytes(data)
        if data is None or len(data) != _num_bytes(shape, dtype):
            raise NotAllowed('an array of another size than its numbers')
        self.is_set = True
        super().__setstate__((1, shape, dtype, bool(is_fortran), data))

    def __reduce__(self) -> tuple:
        # Written again as what it is.
        return self.view(np.ndarray).__reduce__()

    def __reduce_ex__(self, protocol: int) -> tuple:
        return self.view(np.ndarray).__reduce_ex__(protocol)


class SavedHistory(HistoryBuffer):
    """Stands for MMEngine's ``HistoryBuffer``, and is one as soon as it has its numbers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise NotAllowed('HistoryBuffer on anything')

    def __setstate__(self, state: dict) -> None:
        if type(state) is not dict or type(state.get('max_length')) is not int:
            raise NotAllowed('a log without length')
        histories = [state.get(name) for name in ('_log_history', '_count_history')]
        if any(type(history) not in (SavedArray, np.ndarray) or history.ndim != 1 for history in histories):
            raise NotAllowed('a log of other things than numbers')
        # The statistics of the file are left out: they would become those of all logs of the process.
        self._set_default_statistics()
        self.max_length = state['max_length']
        self._log_history, self._count_history = (np.array(history) for history in histories)
        self.__class__ = HistoryBuffer


def reconstruct_array(kind: type, shape: tuple, code: bytes | str) -> SavedArray:
    """Stands for NumPy's ``_reconstruct``: an empty array, whose state comes later."""
    if kind not in (SavedArray, np.ndarray) or shape != (0,) or _as_bytes(code) != b'b':
        raise NotAllowed('an array of another kind')
    array = np.ndarray.__new__(SavedArray, (0,), np.int8)
    array.is_set = False
    return array


def make_scalar(dtype: SavedDtype, data: bytes | str) -> np.generic:
    """Stands for NumPy's ``scalar``: one number."""
    dtype, data = _dtype(dtype), _as_bytes(data)
    if data is None or len(data) != dtype.itemsize:
        raise NotAllowed('a number of another size')
    return np.frombuffer(data, dtype)[0]


def array_from_buffer(data: bytes | bytearray, dtype: SavedDtype, shape: tuple, order: str) -> np.ndarray:
    """Stands for NumPy's ``_frombuffer``: an array of pickle's protocol 5."""
    dtype = _dtype(dtype)
    if type(data) not in (bytes, bytearray) or len(data) != _num_bytes(shape, dtype) or not _is_text(order, 'CF'):
        raise NotAllowed('an array of another size than its numbers')
    # A copy: the buffer may have other users.
    return np.frombuffer(bytes(data), dtype).reshape(shape, order=order)


def history_method(owner: type, name: str) -> Callable:
    """Stands for ``getattr``: a log names its methods through it."""
    if owner is not SavedHistory or type(name) is not str or name not in _STATISTICS:
        raise NotAllowed('attributes of objects')
    return getattr(HistoryBuffer, name)


def ordered_dict(items: list | tuple = ()) -> OrderedDict:
    """Stands for ``OrderedDict``, in pickles other than PyTorch's."""
    if type(items) not in (list, tuple) or not all(
        type(item) in (list, tuple) and len(item) == 2 and type(item[0]) in KEYS for item in items
    ):
        raise NotAllowed('an OrderedDict of other things than names')
    return OrderedDict(items)


def encode_latin1(text: str, encoding: str) -> bytes:
    """Stands for ``_codecs.encode``, by which pickles write bytes, where PyTorch does not allow it by itself."""
    if type(text) is not str or not _is_text(encoding, ('latin1', 'latin-1')):
        raise NotAllowed('other codecs than latin1')
    return text.encode('latin1')


# What a dict may be keyed by: Python crashes on the hash of tuples within tuples within tuples.
KEYS = (str, bytes, int, float, bool, type(None))

# NumPy 2 renamed the package; a file may come from either side of it.
ALLOWED_CALLS = {
    'numpy.ndarray': SavedArray,
    'numpy.dtype': SavedDtype,
    **{f'numpy.{core}.multiarray._reconstruct': reconstruct_array for core in ('core', '_core')},
    **{f'numpy.{core}.multiarray.scalar': make_scalar for core in ('core', '_core')},
    **{f'numpy.{core}.numeric._frombuffer': array_from_buffer for core in ('core', '_core')},
    'mmengine.logging.history_buffer.HistoryBuffer': SavedHistory,
    'builtins.getattr': history_method,
}


def _dtype(dtype: SavedDtype) -> np.dtype:
    if type(dtype) is not SavedDtype:
        raise NotAllowed('an array of other things than numbers')
    return dtype.dtype()


def _num_bytes(shape: tuple, dtype: np.dtype) -> int:
    if type(shape) is not tuple or len(shape) > 32 or any(type(n) is not int or not 0 <= n < 2**48 for n in shape):
        raise NotAllowed('an array of another shape')
    return math.prod(shape) * dtype.itemsize


def _is_text(value: object, choices: str | tuple) -> bool:
    return type(value) is str and value in tuple(choices)


def _as_bytes(data: object) -> bytes | None:
    # Python 2 had no bytes; its texts are read as latin1.
    if type(data) is str:
        try:
            return data.encode('latin1')
        except UnicodeEncodeError:
            return None
    return data if type(data) is bytes else None
