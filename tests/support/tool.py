"""Runs the command-line tools in processes that are forked from one that has imported the package already.

Importing PyTorch and MMDetection takes most of a short command. Tests of what a forked
process cannot show start a new Python: environment variables that are read while importing, and a tool's own imports.
"""

import gc
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from multiprocessing.process import BaseProcess
from pathlib import Path

import mmengine.config.config
import mmengine.config.utils
import mmengine.runner.runner
import mmengine.utils.package_utils

from . import forked_python as forking

_CONTEXT = multiprocessing.get_context('forkserver')
# What the registries would import.
_ROOMS = [
    'checks',
    'cpu.winograd_kernels',
    'datasets.samplers',
    'datasets.transforms',
    'engine',
    'evaluation',
    'models',
    'visualization',
]
_CONTEXT.set_forkserver_preload(['mmdet.apis', *(f'mmdet_sag.{room}' for room in _ROOMS)])


def run_tool(
    tool: str | Path,
    *arguments: object,
    cwd: str | Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 300,
    processes: int = 1,
) -> subprocess.CompletedProcess:
    """Run a Python tool as ``python TOOL ARGUMENTS...`` does, and capture what it prints.

    With several processes, each has the environment that torchrun gives it. torchrun itself takes three times as long,
    since it starts a Python of its own for each process.

    Args:
        tool: Path of the script.
        *arguments: Its arguments.
        cwd: Folder that it runs in.
        env: Its environment; by default that of this process.
        timeout: Seconds after which it is killed.
        processes: Number of processes of a distributed job. Its status is the first one that is not 0.

    Raises:
        subprocess.TimeoutExpired: It ran for longer.
    """
    command = [str(tool), *map(str, arguments)]
    deadline = time.monotonic() + timeout
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder, name) for name in ('stdout', 'stderr')]
        jobs = [
            _start(command, cwd or os.getcwd(), variables, streams)
            for variables in _environments(dict(env or os.environ), processes)
        ]
        try:
            for job in jobs:
                job.join(deadline - time.monotonic())
            late = any(job.exitcode is None for job in jobs)
        finally:
            # Also after Ctrl-C.
            for job in jobs:
                job.kill()
                job.join()
        if late:
            raise subprocess.TimeoutExpired(command, timeout)
        stdout, stderr = (path.read_text(errors='replace') if path.exists() else '' for path in streams)
    status = next((job.exitcode for job in jobs if job.exitcode), 0)
    return subprocess.CompletedProcess(command, status, stdout, stderr)


def start_tool(
    tool: str | Path, *arguments: object, cwd: str | Path, env: Mapping[str, str], log: str | Path
) -> BaseProcess:
    """Start a Python tool in a group of its own, as from a terminal, and append what it prints to a log."""
    return _start([str(tool), *map(str, arguments)], cwd, dict(env), [log, log], new_session=True)


@contextmanager
def forked_python(folder: Path) -> Iterator[dict[str, str]]:
    """Let torchrun fork its processes, see ``forked_python.py``: variables of its environment for that.

    Args:
        folder: An empty one.
    """
    executable, server = folder / 'python', str(folder / 'server')
    executable.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -E "{forking.__file__}" "$@"\n')
    executable.chmod(0o755)
    job = _CONTEXT.Process(target=forking.serve, args=(server, _run_here))
    job.start()
    while not os.path.exists(server) and job.is_alive():
        time.sleep(0.05)
    try:
        yield {'PYTHON_EXEC': str(executable), forking.SERVER: server}
    finally:
        job.kill()
        job.join()


def shorten_start() -> None:
    """Leave out what takes most of the time of a short training: the format of a config, the versions of compilers.

    And read once what MMEngine reads for each config of MMDetection: its metafiles and what is installed.
    """
    mmengine.config.config.FormatCode = lambda text, **options: (text, True)
    mmengine.runner.runner.collect_env = dict
    mmengine.config.utils.load = lru_cache(mmengine.config.utils.load)
    is_installed = lru_cache(mmengine.utils.package_utils.is_installed)
    mmengine.utils.package_utils.is_installed = mmengine.config.config.is_installed = is_installed


def _environments(env: dict, processes: int) -> list[dict]:
    if processes == 1:
        return [env]
    with socket.create_server(('127.0.0.1', 0)) as server:
        port = server.getsockname()[1]
    job = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), WORLD_SIZE=str(processes), OMP_NUM_THREADS='1')
    return [{**env, **job, 'RANK': str(rank), 'LOCAL_RANK': str(rank)} for rank in range(processes)]


def _start(
    command: list[str],
    cwd: str | Path,
    env: dict[str, str],
    streams: Sequence[str | Path],
    new_session: bool = False,
) -> BaseProcess:
    job = _CONTEXT.Process(target=_run, args=(command, os.fspath(cwd), env, list(map(str, streams)), new_session))
    job.start()
    return job


def _run(command: list[str], cwd: str, env: dict[str, str], streams: list[str], new_session: bool) -> None:
    if new_session:
        os.setsid()
    for number, path in enumerate(streams, 1):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    _run_here(command, cwd, env)


def _run_here(command: list[str], cwd: str, env: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = command
    paths = filter(None, env.get('PYTHONPATH', '').split(os.pathsep))
    sys.path[:1] = [os.path.dirname(os.path.abspath(command[0])), *paths]
    shorten_start()
    # What was imported is not searched for garbage again and again.
    gc.freeze()
    try:
        runpy.run_path(command[0], run_name='__main__')
    except KeyboardInterrupt:
        # As Python ends a program.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    finally:
        # A program keeps its status from here on, where multiprocessing would take Ctrl-C for an error.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
