"""Opens pages in headless Chromium."""

import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason='Chromium is not installed (apt-get install chromium)')
OPTIONS = [
    *('--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--hide-scrollbars'),
    *('--disable-background-networking', '--disable-component-update', '--disable-sync', '--enable-logging=stderr'),
    '--disable-dev-shm-usage',
]


def open_page(address: str, *options: str) -> tuple[str, list[str]]:
    """Open a page, and close it again.

    Args:
        address: Its address.
        options: Further options of Chromium.

    Returns:
        What Chromium prints (with ``--dump-dom`` the page after its scripts ran), and the lines of the console.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [CHROMIUM, *OPTIONS, f'--user-data-dir={profile}', *options, address]
        result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout, [line for line in result.stderr.splitlines() if 'CONSOLE' in line]


def screenshot(address: str, out_file: Path, width: int, height: int) -> None:
    """Take a picture of a page."""
    open_page(address, f'--window-size={width},{height}', f'--screenshot={out_file}')
