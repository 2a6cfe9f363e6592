"""Checkpoint files of others, read without running anything that is in them."""

import pickle
import re
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any, Callable

import numpy as np
import torch

from ..errors import InputError

_ZIP = b'PK\x03\x04'
# What torch.save wrote before its files were zip archives begins with this number, pickled.
_LEGACY_TORCH = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
_FLOAT_INT_BOOL = 'fiub'


def read_weights(path: Path) -> Any:
    """Read a file of weights, whatever wrote it: PyTorch, safetensors, or pickle with NumPy arrays.

    Nothing in the file is run: PyTorch's files go through its weights-only loading, and a pickle may hold arrays,
    numbers, texts and containers, nothing else.

    Args:
        path: The file.

    Returns:
        The object in the file, with tensors on the CPU or arrays.

    Raises:
        InputError: If the file is missing, empty, damaged, of another kind, or wants to run something.
    """
    try:
        with path.open('rb') as file:
            head = file.read(len(_LEGACY_TORCH))
    except OSError as error:
        raise InputError(f'{path}: cannot be read ({error.strerror}); give the path of a checkpoint') from error
    if not head:
        raise InputError(f'{path}: is empty; get the file again')
    if head.startswith((_ZIP, _LEGACY_TORCH)):
        return _read(path, _read_torch)
    # safetensors: the length of a JSON text in eight bytes, then that text.
    if head[8:9] == b'{' and int.from_bytes(head[:8], 'little') < path.stat().st_size:
        return _read(path, _read_safetensors)
    return _read(path, _read_pickle)


def _read(path: Path, reader: Callable[[Path], Any]) -> Any:
    try:
        return reader(path)
    except InputError:
        raise
    except _NotAllowed as error:
        raise InputError(f'{path}: refused, it wants to use {error}, which no file of weights needs') from None
    except Exception as error:  # A damaged file can make a reader fail in any way.
        # PyTorch names what it does not allow only inside its message.
        found = re.search(r'(?:GLOBAL|class|function) ((?:\w+\.)+\w+)', str(error))
        if isinstance(error, pickle.UnpicklingError) and found:
            raise InputError(f'{path}: refused, it wants to use {found[1]}, which no file of weights needs') from None
        raise InputError(f'{path}: is damaged, truncated or no checkpoint at all; get the file again') from error


def _read_torch(path: Path) -> Any:
    with warnings.catch_warnings():
        # PyTorch's own use of its storage classes, which older files bring about.
        warnings.filterwarnings('ignore', message='TypedStorage is deprecated')
        return torch.load(path, map_location='cpu', weights_only=True)


def _read_safetensors(path: Path) -> Any:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise InputError(
            f'{path}: is a safetensors file; pip install safetensors, or take the PyTorch file of the same weights'
        ) from None
    return load_file(path)


def _read_pickle(path: Path) -> Any:
    with path.open('rb') as file:
        # latin1: the texts and arrays of Python 2's pickles.
        return _ArrayUnpickler(file, encoding='latin1').load()


class _NotAllowed(Exception):
    """A pickle names something that is not on the list."""


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable:
        if (module, name) not in _ALLOWED:
            raise _NotAllowed(f'{module}.{name}')
        return _ALLOWED[module, name]


def _plain_dtype(code: str, *_: object) -> np.dtype:
    # A copy, always: pickle sets the byte order of what it gets, which must not be NumPy's own object.
    dtype = np.dtype(code, copy=True) if isinstance(code, str) else np.dtype('O')
    if dtype.kind not in _FLOAT_INT_BOOL:
        raise _NotAllowed(f'an array of type {code!r}')
    return dtype


def _encode_latin1(text: str, encoding: str) -> bytes:
    if encoding not in ('latin1', 'latin-1'):
        raise _NotAllowed(f'the codec {encoding!r}')
    return text.encode('latin1')


_RECONSTRUCT = np.empty(1).__reduce__()[0]
_FROM_BUFFER = np.empty(1).__reduce_ex__(5)[0]
_ALLOWED = {
    ('collections', 'OrderedDict'): OrderedDict,
    ('_codecs', 'encode'): _encode_latin1,
    ('numpy', 'ndarray'): np.ndarray,
    ('numpy', 'dtype'): _plain_dtype,
    # NumPy 2 renamed the package; a file may come from either side of it.
    **{(f'numpy.{core}.multiarray', '_reconstruct'): _RECONSTRUCT for core in ('core', '_core')},
    **{(f'numpy.{core}.numeric', '_frombuffer'): _FROM_BUFFER for core in ('core', '_core')},
}
