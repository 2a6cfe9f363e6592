"""Checks, before the work begins, that its results can be written."""

import errno
import os
import tempfile
from pathlib import Path

from ..errors import InputError
from .remote import is_remote


def check_writable_folder(path: str | Path, option: str) -> None:
    """Check that files can be written into a folder, which is made later if it does not exist.

    A file without a name is made in it, or in the nearest folder above that exists; nothing stays behind.

    Args:
        path: Path of the folder. An address of a remote storage is not checked.
        option: What names it, such as ``--out-dir``.

    Raises:
        InputError: The folder cannot be made, or nothing can be written into it.
    """
    if is_remote(path):
        return
    folder = Path(path).absolute()
    while not os.path.lexists(folder):
        folder = folder.parent
    try:
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"'{folder}' is no folder")
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"folder '{path}' ({option}) cannot be written to ({error.strerror}): give a folder with room and rights"
        ) from error


def check_writable_file(path: str | Path, option: str, makes_folder: bool = False) -> None:
    """Check that a file can be written, as :func:`atomic_write` does it.

    Args:
        path: Path of the file; it may exist. An address of a remote storage is not checked.
        option: What names it, such as ``--out``.
        makes_folder: Whether its folder is made later if it does not exist.

    Raises:
        InputError: The path is a folder, its folder does not exist, or nothing can be written into that.
    """
    if is_remote(path) or (os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)):
        return
    if os.path.isdir(path):
        raise InputError(f"'{path}' ({option}) is a folder: name a file")
    # What a link leads to is replaced, and not the link.
    folder = Path(os.path.realpath(path)).parent
    if not makes_folder and not folder.exists():
        raise InputError(f"'{path}' ({option}) cannot be written: folder '{folder}' does not exist, make it first")
    check_writable_folder(folder, option)
