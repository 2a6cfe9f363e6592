"""What MMEngine loads checkpoints with, from files, addresses and its zoo's names: nothing in them is run."""

import hashlib
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# By its full name: mmengine.runner may be in the middle of importing it.
import mmengine.runner.checkpoint as mmengine_checkpoint
from mmengine.fileio import get_file_backend
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, hub

from ..errors import InputError
from ..fileio import sha256
from .reading import LOADS_SAFELY, read_weights

# A part of a SHA-256 in a file name, as PyTorch and OpenMMLab publish their files.
_SHORTEST_HASH = 8


def register_loaders() -> None:
    """Let MMEngine load every checkpoint as :func:`read_weights` reads a file, and download each address by itself."""
    # All addresses go through it, those of names such as torchvision://resnet50 too.
    mmengine_checkpoint.load_url = _load_url
    CheckpointLoader.register_scheme('', load_from_local, force=True)
    CheckpointLoader.register_scheme([r'(\S+\:)?s3://', r'(\S+\:)?petrel://'], load_from_ceph, force=True)


def load_from_local(filename: str, map_location: Any = None) -> Any:
    """Load a local file in place of MMEngine's function of this name, as :func:`read_weights` does."""
    if LOADS_SAFELY:
        checkpoint = read_weights(Path(filename).expanduser(), map_location=map_location)
    else:
        # Safe loading of this PyTorch does not know MMEngine's classes.
        checkpoint = mmengine_checkpoint.load_from_local(filename, map_location)
    if isinstance(checkpoint, dict) and isinstance(checkpoint.get('meta'), dict):
        # A config of MMCV, which Runner.resume would run as Python.
        checkpoint['meta'].pop('config', None)
    if isinstance(checkpoint, dict) and checkpoint and all(isinstance(value, Tensor) for value in checkpoint.values()):
        # EMAHook wants the key that MMEngine itself does not need.
        checkpoint = dict(state_dict=checkpoint)
    return checkpoint


def load_from_ceph(filename: str, map_location: Any = None, backend: str = 'petrel') -> Any:
    """Load a file of a storage in place of MMEngine's function of this name; see :func:`load_from_local`."""
    with get_file_backend(filename, backend_args=dict(backend=backend)).get_local_path(filename) as path:
        return load_from_local(path, map_location)


def _load_url(url: str, model_dir: str | None = None, map_location: Any = None, progress: bool = True) -> Any:
    folder = Path(model_dir or Path(hub.get_dir(), 'checkpoints'))
    address = urlsplit(url)
    name = Path(address.path).name
    path = folder / name
    found = hub.HASH_REGEX.search(name)
    if found and len(found[1]) >= _SHORTEST_HASH and path.is_file() and sha256(path).startswith(found[1]):
        # PyTorch and MMEngine keep it under its name only; this name says what is in it.
        return load_from_local(str(path), map_location)
    # Files of one name at two addresses are two files.
    path = path.with_name(f'{path.stem}.{hashlib.sha256(url.encode()).hexdigest()[:16]}{path.suffix}')
    if not path.is_file():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            hub.download_url_to_file(url, str(path), progress=progress)
        except (OSError, ValueError, HTTPException) as error:
            reason = ' '.join(str(error).split())
            raise InputError(f'{url}: cannot be downloaded ({reason}); check it, or give the path of a file') from error
    try:
        return load_from_local(str(path), map_location)
    except InputError as error:
        # What broke off is not kept for the next run.
        path.unlink(missing_ok=True)
        raise InputError(f'{url}, downloaded to {error}') from error
