"""Runs the command-line tools in processes that are forked from one that has imported the package already.

Importing PyTorch and MMDetection takes most of a short command. Tests of what a forked
process cannot show start a new Python: environment variables that are read while importing, and a tool's own imports.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

_CONTEXT = multiprocessing.get_context('forkserver')
_CONTEXT.set_forkserver_preload(['mmdet_sag', 'mmdet.apis'])


def run_tool(
    tool: str | Path,
    *arguments: object,
    cwd: str | Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 300,
) -> subprocess.CompletedProcess:
    """Run a Python tool as ``python TOOL ARGUMENTS...`` does, and capture what it prints.

    Args:
        tool: Path of the script.
        *arguments: Its arguments.
        cwd: Folder that it runs in.
        env: Its environment; by default that of this process.
        timeout: Seconds after which it is killed.

    Raises:
        subprocess.TimeoutExpired: It ran for longer.
    """
    command = [str(tool), *map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder, name) for name in ('stdout', 'stderr')]
        process = _CONTEXT.Process(
            target=_run, args=(command, os.fspath(cwd or os.getcwd()), dict(env or os.environ), list(map(str, streams)))
        )
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(command, timeout)
        stdout, stderr = (path.read_text(errors='replace') if path.exists() else '' for path in streams)
    return subprocess.CompletedProcess(command, process.exitcode, stdout, stderr)


def _run(command: list[str], cwd: str, env: dict[str, str], streams: list[str]) -> None:
    for number, path in enumerate(streams, 1):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = command
    sys.path[0] = os.path.dirname(os.path.abspath(command[0]))
    runpy.run_path(command[0], run_name='__main__')
