"""Atomic writes of files and folders, and checks that results can be written."""

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from .errors import InputError

__all__ = [
    'atomic_folder',
    'atomic_write',
    'check_writable_file',
    'check_writable_folder',
    'is_remote',
    'sha256',
]

# MMEngine's storage backends that read and write plain paths on the local disk.
_LOCAL_BACKENDS = ('local', 'atomic_file')


@contextmanager
def atomic_write(path: str | Path, mode: str = 'wb', encoding: str | None = None) -> Iterator[IO]:
    """Open a file to write it atomically.

    The content goes to a temporary file beside ``path``. When the ``with`` block ends, that file is flushed to the disk
    and renamed. An error, a killed process, a machine failure or a full disk leaves the previous file unchanged. The
    permissions of the previous file are kept. If ``path`` is a link, the file that it points to is replaced. Pipes and
    devices such as ``/dev/stdout`` are written to directly.

    Args:
        path: Path of the file. Its folder must exist.
        mode: ``'wb'`` or ``'w'``.
        encoding: Encoding of a text file. Default: UTF-8.

    Raises:
        OSError: The disk is full or not writable. The previous file is unchanged.
    """
    if encoding is None and 'b' not in mode:
        encoding = 'utf-8'
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, mode, encoding=encoding) as file:
            yield file
        return
    target = Path(os.path.realpath(path))
    # The name is fixed, so that the next write replaces what a killed process left.
    partial = target.with_name(f'.{target.name}.partial')
    try:
        with open(partial, mode, encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, partial)
        os.replace(partial, target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if os.name == 'posix':
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Create a folder atomically.

    Args:
        path: Path of the folder. An existing one is replaced with all its content when the ``with`` block ends without
            an error. If it is a link, the folder that it points to is replaced.

    Yields:
        A temporary folder to fill, beside the final one.

    Raises:
        OSError: The disk is full or not writable. The previous folder is unchanged.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'{path.name}.', dir=path.parent) as temporary:
        new, old = Path(temporary, 'new'), Path(temporary, 'old')
        new.mkdir()
        yield new
        if path.exists():
            path.rename(old)
        try:
            new.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise


def is_remote(path: str | Path, backend_args: dict | None = None) -> bool:
    """Return whether a path lies on another storage than the local disk.

    Args:
        path: Path of a file or folder, or an address that MMEngine can read (``https://...``, ``s3://...``,
            ``open-mmlab://...``).
        backend_args: The storage backend that a config names for the path, if any.
    """
    return '://' in str(path) or (backend_args or {}).get('backend', 'local') not in _LOCAL_BACKENDS


def check_writable_folder(path: str | Path, option: str) -> None:
    """Check that files can be written into a folder, which need not exist yet.

    An unnamed temporary file is created in it, or in its nearest existing parent.

    Args:
        path: Path of the folder. Remote addresses are not checked.
        option: The option that names it, such as ``--out-dir``.

    Raises:
        InputError: The folder cannot be created or written to.
    """
    if is_remote(path):
        return
    folder = Path(path).absolute()
    while not os.path.lexists(folder):
        folder = folder.parent
    try:
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"'{folder}' is not a folder")
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"folder '{path}' ({option}) cannot be written to ({error.strerror}): give a folder with free space and "
            'write permission'
        ) from error


def check_writable_file(path: str | Path, option: str, makes_folder: bool = False) -> None:
    """Check that :func:`atomic_write` can write a file.

    Args:
        path: Path of the file, which may exist. Remote addresses, pipes and devices are not checked.
        option: The option that names it, such as ``--out``.
        makes_folder: Whether the command creates the folder of the file.

    Raises:
        InputError: The path is a folder, its folder does not exist or cannot be written to.
    """
    if os.path.isdir(path):
        raise InputError(f"'{path}' ({option}) is a folder: name a file")
    if is_remote(path) or (os.path.exists(path) and not os.path.isfile(path)):
        return
    # A link is kept, and the file that it points to is replaced.
    folder = Path(os.path.realpath(path)).parent
    if not makes_folder and not folder.exists():
        raise InputError(f"'{path}' ({option}) cannot be written: folder '{folder}' does not exist, create it first")
    check_writable_folder(folder, option)


def sha256(path: str | Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
