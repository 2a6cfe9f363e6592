"""Reads checkpoint files without running anything in them."""

import functools
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.utils import digit_version

from ..errors import InputError

# Whether torch.load is safe by default.
LOADS_SAFELY = digit_version(torch.__version__) >= digit_version('2.6')
_ZIP = b'PK\x03\x04'
# Files of torch.save that are no zip archives begin with this number, pickled.
_LEGACY_TORCH = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)


def read_weights(
    path: Path, mmap: bool = False, read_pickle: Callable[[Path], Any] | None = None, map_location: Any = 'cpu'
) -> Any:
    """Read a file of weights: of PyTorch, with ``torch.load(weights_only=True)``, or safetensors.

    Args:
        path: The file.
        mmap: Whether to leave the tensors on the disk until they are used, where PyTorch's format allows it.
        read_pickle: Reads other pickles; without it they are refused.
        map_location: Where the tensors go, as of :func:`torch.load`.

    Raises:
        InputError: The file is missing, empty, damaged, of another kind, or wants to run something.
    """
    try:
        with path.open('rb') as file:
            head = file.read(len(_LEGACY_TORCH))
    except OSError as error:
        raise InputError(f'{path}: cannot be read ({error.strerror}); give the path of a checkpoint') from error
    if not head:
        raise InputError(f'{path}: is empty; get the file again')
    if head.startswith((_ZIP, _LEGACY_TORCH)):
        is_zip = head.startswith(_ZIP)
        if is_zip and (damage := archive_damage(path)):
            raise InputError(f'{path}: is damaged or truncated ({damage}); get the file again')
        return _read(path, functools.partial(_read_torch, mmap=mmap and is_zip, map_location=map_location))
    # safetensors: the length of a JSON text in eight bytes, then that text.
    if head[8:9] == b'{' and int.from_bytes(head[:8], 'little') < path.stat().st_size:
        return _read(path, _read_safetensors)
    if read_pickle is None:
        raise InputError(f'{path}: is no file of PyTorch or safetensors, or it is damaged; get the file again')
    return _read(path, read_pickle)


def _read(path: Path, reader: Callable[[Path], Any]) -> Any:
    try:
        return reader(path)
    except InputError:
        raise
    except Exception as error:  # A damaged file can make a reader fail in any way.
        # PyTorch names what is not allowed only inside its message.
        wanted = re.search(r'the checkpoint (wants .+?), which is not allowed', str(error))
        found = re.search(r'(?:GLOBAL|class|function) ((?:\w+\.)+\w+)', str(error))
        if wanted:
            what = wanted[1]
        elif isinstance(error, pickle.UnpicklingError) and found:
            what = f'wants to use {found[1]}'
        else:
            raise InputError(f'{path}: is damaged, truncated or no checkpoint at all; get the file again') from error
        raise InputError(f'{path}: refused, it {what}, which no file of weights needs') from None


def archive_damage(path: Path) -> str | None:
    """What is wrong with a zip archive by its checksums, which PyTorch writes into its files and does not check."""
    status = path.stat()
    return _archive_damage(path, status.st_ino, status.st_size, status.st_mtime_ns)


@functools.lru_cache
def _archive_damage(path: Path, *version: int) -> str | None:
    # Once for each version of a file, which is read several times before a run starts.
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            # PyTorch takes a part with this bit for a folder, and fills its tensor with anything.
            if any(part.external_attr & 0x10 and not part.is_dir() for part in parts):
                return 'a part is marked as folder'
            # torch.serialization.set_crc32_options(False) writes no checksums.
            part = archive.testzip() if any(part.CRC for part in parts) else None
            return part and f'the checksum of {part} is wrong'
    except Exception as error:  # As above.
        return ' '.join(str(error).split()) or type(error).__name__


def _read_torch(path: Path, mmap: bool, map_location: Any) -> Any:
    with warnings.catch_warnings():
        # Older files make PyTorch use its own deprecated storage classes.
        warnings.filterwarnings('ignore', message='TypedStorage is deprecated')
        return torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)


def _read_safetensors(path: Path) -> Any:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise InputError(
            f'{path}: is a safetensors file; pip install safetensors, or take the PyTorch file of the same weights'
        ) from None
    return load_file(path)
