"""Checkpoint files of others, read without running anything that is in them."""

import functools
import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError
from .allowed_calls import NotAllowed
from .detectron2_pickle import ListedUnpickler

_ZIP = b'PK\x03\x04'
# What torch.save wrote before its files were zip archives begins with this number, pickled.
_LEGACY_TORCH = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)


def read_weights(path: Path, mmap: bool = False) -> Any:
    """Read a file of weights, whatever wrote it: PyTorch, safetensors, or pickle with NumPy arrays.

    Nothing in the file is run: PyTorch's files go through its weights-only loading, and a pickle may hold arrays,
    numbers, texts and containers, nothing else.

    Args:
        path: The file.
        mmap: Leave the tensors on the disk until they are used, where PyTorch's format allows it.

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
        return _read(path, functools.partial(_read_torch, mmap=mmap and head.startswith(_ZIP)))
    # safetensors: the length of a JSON text in eight bytes, then that text.
    if head[8:9] == b'{' and int.from_bytes(head[:8], 'little') < path.stat().st_size:
        return _read(path, _read_safetensors)
    return _read(path, _read_pickle)


def _read(path: Path, reader: Callable[[Path], Any]) -> Any:
    try:
        return reader(path)
    except InputError:
        raise
    except NotAllowed as error:
        raise InputError(f'{path}: refused, it wants {error.what}, which no file of weights needs') from None
    except Exception as error:  # A damaged file can make a reader fail in any way.
        # PyTorch names what is not allowed only inside its message.
        wanted = re.search(r'the checkpoint wants (.+?), which is not allowed', str(error))
        if wanted:
            raise InputError(f'{path}: refused, it wants {wanted[1]}, which no file of weights needs') from None
        found = re.search(r'(?:GLOBAL|class|function) ((?:\w+\.)+\w+)', str(error))
        if isinstance(error, pickle.UnpicklingError) and found:
            raise InputError(f'{path}: refused, it wants to use {found[1]}, which no file of weights needs') from None
        raise InputError(f'{path}: is damaged, truncated or no checkpoint at all; get the file again') from error


def _read_torch(path: Path, mmap: bool) -> Any:
    with warnings.catch_warnings():
        # PyTorch's own use of its storage classes, which older files bring about.
        warnings.filterwarnings('ignore', message='TypedStorage is deprecated')
        return torch.load(path, map_location='cpu', weights_only=True, mmap=mmap)


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
        return ListedUnpickler(file, encoding='latin1').load()
