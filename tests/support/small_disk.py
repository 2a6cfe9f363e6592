"""A disk that is easily full."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mount_small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a disk in memory at a folder, or skip the test.

    Args:
        folder: A path that does not exist.
        size: As in ``mount -o size=``.
    """
    folder.mkdir()
    command = ['mount', '-t', 'tmpfs', '-o', f'size={size}', 'tmpfs', folder]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip('mounting a small disk needs root')
    try:
        yield folder
    finally:
        subprocess.run(['umount', '-l', folder], check=True)
