"""Atomic writes of files and folders."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def atomic_write(path: str | Path, mode: str = 'wb', encoding: str | None = None) -> Iterator[IO]:
    """Open a file to write it atomically: all of it appears, or nothing.

    What is written goes to a file beside its place. When the ``with`` block ends that file is flushed to the disk and
    renamed, so that an error, a process that is killed, a machine that fails or a full disk leave the previous file as
    it was. The new file has the rights of the previous one. A link stays a link: the file that it leads to is replaced.
    What is no regular file, such as a pipe or ``/dev/stdout``, is written to as it is.

    Args:
        path: Path of the file. Its folder must exist.
        mode: ``'wb'`` or ``'w'``.
        encoding: Encoding of a text; by default UTF-8.

    Raises:
        OSError: The disk is full or not writable. The file is as it was before.
    """
    if encoding is None and 'b' not in mode:
        encoding = 'utf-8'
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, mode, encoding=encoding) as file:
            yield file
        return
    place = Path(os.path.realpath(path))
    # Always the same name: the remains of a killed process are overwritten by the next one.
    partial = place.with_name(f'.{place.name}.partial')
    try:
        with open(partial, mode, encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if place.exists():
            shutil.copymode(place, partial)
        os.replace(partial, place)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if os.name == 'posix':
        folder = os.open(place.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Make a folder atomically: all of it appears, or nothing.

    Args:
        path: Path of the folder. If it exists, it is replaced, with all that it holds, when the ``with`` block ends
            without an error. A link stays a link.

    Yields:
        The folder to fill, which lies beside the place of the one to come.

    Raises:
        OSError: The disk is full or not writable. The folder is as it was before.
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
