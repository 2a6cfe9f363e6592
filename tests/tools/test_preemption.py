"""Two training processes that a scheduler stops while the disk is slow."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from support.tiny_training import rectangles_config, write_rectangles
from support.tool import run_tool, start_tool

pytestmark = pytest.mark.usefixtures('forked_torchrun')
ROOT = Path(__file__).parents[2]
TRAIN = ROOT / 'tools' / 'train.py'
PORT = str(20000 + (os.getpid() + 5000) % 10000)
# Seconds that writing a checkpoint takes. torchrun kills a process 30 seconds after it has seen another one leave.
SLOW = os.environ.get('SLOW_DISK', '5')
SLOW_DISK = """
import os, time
from mmengine.fileio import get_file_backend, register_backend
Whole = type(get_file_backend(backend_args=dict(backend='atomic_file')))
class SlowDisk(Whole):
    def put(self, obj, filepath):
        open('writing', 'w').close()
        time.sleep(float(os.environ['SLOW_DISK']))
        super().put(obj, filepath)
register_backend('atomic_file', SlowDisk, force=True)
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with a data set and a config that trains on it until it is stopped, and writes slowly."""
    write_rectangles(tmp_path / 'data', num_images=4)
    config = rectangles_config(tmp_path / 'data')
    config.train_cfg.max_iters = 100000
    config.default_hooks.checkpoint.interval = 50000
    config.custom_imports = dict(imports=['mmdet_sag', 'slow_disk'])
    config.default_hooks.preemption.sync_interval = 2
    config.dump(tmp_path / 'config.py')
    (tmp_path / 'slow_disk.py').write_text(SLOW_DISK)
    (tmp_path / 'log').touch()
    return tmp_path


def environment(folder: Path, slow_disk: str = SLOW, **variables: str) -> dict[str, str]:
    return {
        **os.environ,
        'PATH': os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']]),
        'PYTHONPATH': os.pathsep.join([str(folder), str(ROOT)]),
        'OMP_NUM_THREADS': '1',
        'SLOW_DISK': slow_disk,
        **variables,
    }


class Training:
    """A training that has begun: two processes of torchrun, one process alone, or one of a launcher's.

    Each has a session of its own, as from a terminal, where Ctrl-C is for the whole group.
    """

    def __init__(self, folder: Path, *arguments: object, torchrun: bool = False, **variables: str) -> None:
        env = environment(folder, **variables)
        arguments = ('--work-dir', 'work', *arguments)
        if torchrun:
            command = [ROOT / 'tools' / 'dist_train.sh', 'config.py', '2', *arguments]
            with open(folder / 'log', 'a') as log:
                self.job = subprocess.Popen(
                    command, cwd=folder, env={**env, 'PORT': PORT}, stdout=log, stderr=log, start_new_session=True
                )
        else:
            self.job = start_tool(TRAIN, 'config.py', *arguments, cwd=folder, env=env, log=folder / 'log')

    def status(self) -> int | None:
        return self.job.poll() if isinstance(self.job, subprocess.Popen) else self.job.exitcode

    def wait(self, timeout: float = 180) -> int | None:
        if isinstance(self.job, subprocess.Popen):
            return self.job.wait(timeout)
        self.job.join(timeout)
        return self.job.exitcode

    def send(self, number: int) -> None:
        os.kill(self.job.pid, number)


def wait_for(condition, folder: Path, jobs: list, seconds: int = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        log = (folder / 'log').read_text()[-3000:]
        assert time.monotonic() < deadline and any(job.status() is None for job in jobs), log
        time.sleep(0.05)


def trains(folder: Path) -> bool:
    return 'Iter(train)' in (folder / 'log').read_text()


def assert_nothing_is_lost(folder: Path, name: str = 'SIGTERM') -> int:
    """Check the checkpoint of a training that a signal stopped, and return its iteration."""
    log = (folder / 'log').read_text()
    assert f'{name}: stopped after iteration' in log, log[-3000:]
    done = int(log.split(f'{name}: stopped after iteration ')[1].split('.')[0])
    path = Path((folder / 'work' / 'last_checkpoint').read_text())
    assert path.name == f'iter_{done}.pth'
    assert torch.load(path)['meta']['iter'] == done
    return done


def test_a_launcher_that_kills_all_when_one_leaves_finds_the_checkpoint_whole(folder):
    # As srun does with --kill-on-bad-exit, and as torchrun does after a while.
    ranks = dict(WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=PORT)
    jobs = [Training(folder, '--launcher', 'pytorch', RANK=rank, LOCAL_RANK=rank, **ranks) for rank in '01']
    try:
        wait_for(lambda: trains(folder), folder, jobs)
        for job in jobs:
            job.send(signal.SIGTERM)
        wait_for((folder / 'writing').exists, folder, jobs)
        for job in jobs:
            # A scheduler that asks once more.
            job.send(signal.SIGTERM)
        wait_for(lambda: any(job.status() is not None for job in jobs), folder, jobs)
        assert (folder / 'work' / 'last_checkpoint').is_file(), 'a process left before the file was whole'
        # Nobody is left waiting, and nobody crashes on the way out.
        assert [job.wait(timeout=60) for job in jobs] == [143, 143]
    finally:
        for job in jobs:
            job.job.kill()
    assert_nothing_is_lost(folder)


def test_torchrun_that_is_stopped_loses_nothing_and_resume_goes_on(folder):
    options = ('--cfg-options', 'default_hooks.preemption.sync_interval=10')
    job = Training(folder, *options, torchrun=True)
    try:
        wait_for(lambda: trains(folder), folder, [job])
        job.send(signal.SIGTERM)
        assert job.wait() != 0
    finally:
        job.job.kill()
    iteration = assert_nothing_is_lost(folder)
    assert iteration % 10 == 0, 'both processes stop at a common iteration'
    last = f'train_cfg.max_iters={iteration + 1}'
    command = (TRAIN, 'config.py', '--work-dir', 'work', '--resume', *options, last)
    resumed = run_tool(*command, cwd=folder, env=environment(folder, slow_disk='0'))
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert f'iter: {iteration}' in resumed.stdout + resumed.stderr
    assert (folder / 'work' / f'iter_{iteration + 1}.pth').is_file()


def started(folder: Path, processes: int, slow_disk: str) -> Training:
    """A training that has begun, with workers that load its images."""
    options = ('train_dataloader.num_workers=2', 'train_dataloader.persistent_workers=True')
    job = Training(folder, '--cfg-options', *options, torchrun=processes > 1, slow_disk=slow_disk)
    wait_for(lambda: trains(folder), folder, [job])
    return job


@pytest.mark.parametrize('processes', [1, 2])
def test_ctrl_c_saves_and_says_how_to_go_on(folder, processes):
    job = started(folder, processes, slow_disk='0')
    try:
        os.killpg(job.job.pid, signal.SIGINT)
        assert job.wait() == 130
    finally:
        job.job.kill()
    assert_nothing_is_lost(folder, 'SIGINT')
    log = (folder / 'log').read_text()
    assert 'Traceback' not in log, log[-3000:]
    assert 'Continue with --resume' in log


@pytest.mark.parametrize('processes', [1, 2])
def test_a_second_ctrl_c_stops_at_once(folder, processes):
    job = started(folder, processes, slow_disk='60')
    try:
        os.killpg(job.job.pid, signal.SIGINT)
        wait_for((folder / 'writing').exists, folder, [job])
        time.sleep(1.2)
        os.killpg(job.job.pid, signal.SIGINT)
        assert job.wait() == 130
    finally:
        job.job.kill()
    assert not (folder / 'work' / 'last_checkpoint').exists(), 'it waited for the disk'
    log = (folder / 'log').read_text()
    assert 'Traceback' not in log, log[-3000:]
    assert 'Ctrl-C: stopped at once' in log
