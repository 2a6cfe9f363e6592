"""Atomic writes of files and folders, and checks that results can be written."""

import errno
import glob
import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from .errors import InputError

try:
    import fcntl
except ImportError:  # Windows, where an open file can be neither removed nor renamed.
    fcntl = None  # type: ignore[assignment]

# MMEngine's storage backends that read and write plain paths on the local disk.
_LOCAL_BACKENDS = ('local', 'atomic_file')
# What storages say that cannot flush a folder, and the system of a folder that must not be listed.
_NO_FOLDER_FSYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES)


@contextmanager
def atomic_write(path: str | Path, mode: str = 'wb') -> Iterator[IO]:
    """Open a file, whose folder must exist, to write it atomically.

    The content goes to a temporary file beside ``path``. When the ``with`` block ends, that file is flushed to the disk
    and renamed. An error, a killed process, a machine failure or a full disk leaves the previous file unchanged. The
    permissions of the previous file are kept. If ``path`` is a link, the file that it points to is replaced. Pipes and
    devices such as ``/dev/stdout`` are written to directly. ``mode`` is ``'wb'`` or ``'w'``, which writes UTF-8.

    Raises:
        OSError: The disk is full or not writable.
    """
    encoding = None if 'b' in mode else 'utf-8'
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, mode, encoding=encoding) as file:
            yield file
        return
    target = Path(os.path.realpath(path))
    file = _new_partial(target, mode.replace('w', 'x'), encoding)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if fcntl is None:
                file.close()
            if target.exists():
                shutil.copymode(target, file.name)
            os.replace(file.name, target)
    except BaseException:
        Path(file.name).unlink(missing_ok=True)
        raise
    if os.name == 'posix':
        _flush_folder(target.parent)


def _new_partial(target: Path, mode: str, encoding: str | None) -> IO:
    """Create the file that becomes ``target``, and remove those that killed processes left.

    The name cannot be guessed, and an existing file or link is never opened. A living process holds the lock on its
    file.
    """
    # Not all of the name: it may be as long as a name can be.
    start = f'.{target.name[:48]}.'
    for left in target.parent.glob(f'{glob.escape(start)}*.partial'):
        # A storage without locks keeps what is left.
        with suppress(OSError):
            _remove_abandoned(left)
    while True:
        file = open(target.with_name(f'{start}{secrets.token_hex(8)}.partial'), mode, encoding=encoding)  # noqa: SIM115
        if fcntl is not None:
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
        # Another process may have removed it before it was locked.
        if os.path.exists(file.name):
            return file
        file.close()


def _remove_abandoned(path: Path) -> None:
    if fcntl is None:
        path.unlink()
        return
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    finally:
        os.close(descriptor)


def _flush_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_FSYNC:
            raise


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Create a folder atomically, from the temporary one beside it that is yielded to be filled.

    All content of an existing folder is replaced when the ``with`` block ends without an error. The folder itself
    stays: it may be a disk of its own, or the one that somebody works in. If it is a link, the content of the folder
    that it points to is replaced. Where nothing can be moved into it from beside it, the temporary folder is in it.

    Raises:
        OSError: The disk is full or not writable. The previous folder is unchanged.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    place = path if path.is_dir() and not _can_be_renamed(path) else path.parent
    with tempfile.TemporaryDirectory(prefix=f'{path.name}.', dir=place) as temporary:
        new, old = Path(temporary, 'new'), Path(temporary, 'old')
        new.mkdir()
        yield new
        if not path.exists():
            new.rename(path)
            return
        old.mkdir()
        moved: list[tuple[Path, Path]] = []
        try:
            for source, target in ((path, old), (new, path)):
                for entry in set(source.iterdir()) - {Path(temporary)}:
                    moved.append((entry, entry.rename(target / entry.name)))
        except BaseException:
            for before, after in reversed(moved):
                after.rename(before)
            raise


def _can_be_renamed(folder: Path) -> bool:
    """Whether a folder is neither a mount point, such as the volume of a container, nor of a container's image."""
    try:
        other = Path(tempfile.mkdtemp(dir=folder.parent))
    except OSError:
        return False
    # No folder replaces one that is not empty: it stays where it is.
    file = other / 'file'
    file.touch()
    try:
        os.rename(folder, other)
    except OSError as error:
        return error.errno not in (errno.EBUSY, errno.EXDEV)
    finally:
        file.unlink()
        other.rmdir()
    return True


def is_remote(path: str | Path, backend_args: dict | None = None) -> bool:
    """Return whether a path lies on another storage than the local disk.

    It may be an address that MMEngine can read (``https://...``, ``s3://...``, ``open-mmlab://...``), or
    ``backend_args`` the storage backend that a config names for it.
    """
    return '://' in str(path) or (backend_args or {}).get('backend', 'local') not in _LOCAL_BACKENDS


def check_writable_folder(path: str | Path, option: str) -> None:
    """Check that files can be written into a folder, which ``option`` names and which need not exist yet.

    An unnamed temporary file is created in it, or in its nearest existing parent. Remote addresses are not checked.
    """
    if is_remote(path):
        return
    folder = Path(path).absolute()
    while not os.path.lexists(folder):
        folder = folder.parent
    try:
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"'{folder}' is not a folder")
        with tempfile.TemporaryFile(dir=folder) as file:
            # A full disk still makes files, but has no room for what is in them.
            file.write(bytes(1))
            file.flush()
    except OSError as error:
        raise InputError(
            f"folder '{path}' ({option}) cannot be written to ({error.strerror}): give a folder with free space and "
            'write permission'
        ) from error


def check_writable_file(path: str | Path, option: str, makes_folder: bool = False) -> None:
    """Check that :func:`atomic_write` can write a file, which ``option`` names.

    Remote addresses, pipes and devices are not checked. ``makes_folder``: the command creates the folder of the file.
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
