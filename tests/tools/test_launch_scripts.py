import os
import socket
import subprocess
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

TOOLS = Path(__file__).parents[2] / 'tools'


def arguments_of(program: str, folder: Path, script: str, *arguments: str, **environment: str) -> list[str]:
    """Run a script with a program that writes down its arguments."""
    path = folder / program
    path.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\nexit 7\n')
    path.chmod(0o755)
    environment = {**os.environ, 'PATH': f'{folder}:{os.environ["PATH"]}', **environment}
    job = subprocess.run([TOOLS / script, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert job.returncode == 7, 'the status is that of the job'
    return job.stdout.splitlines()


def srun_arguments(folder: Path, script: str, *arguments: str) -> list[str]:
    return arguments_of('srun', folder, script, *arguments, GPUS='4', SRUN_ARGS='-w a,b --quiet')


def torchrun_options(folder: Path, script: str, monkeypatch, **environment: str) -> dict:
    """Run a script with a Python that does nothing, and return torchrun's options, as it parses them."""
    with monkeypatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        words = arguments_of('python', folder, script, 'config.py', *['no.pth'] * ('test' in script), '3')
        options = vars(
            get_args_parser().parse_args(words[next(i for i, x in enumerate(words) if x[:8] == '--nnodes') :])
        )
    assert options['nproc_per_node'] == '3'
    return options


# By Kubernetes' training operator, in a job of fixed size and in an elastic one.
POD = dict(PET_NNODES='2', PET_NODE_RANK='1', PET_MASTER_ADDR='job-master-0', PET_MASTER_PORT='23456')
POD.update(MASTER_ADDR='job-master-0', MASTER_PORT='23456', WORLD_SIZE='2', RANK='1', PET_NPROC_PER_NODE='auto')
ELASTIC_POD = dict(PET_NNODES='2:4', PET_RDZV_BACKEND='c10d', PET_RDZV_ENDPOINT='job-worker-0:23456')
ELASTIC_POD.update(PET_MAX_RESTARTS='5', PET_RDZV_ID='job')


@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh'])
def test_the_pods_of_a_job_meet(tmp_path, monkeypatch, script):
    options = torchrun_options(tmp_path, script, monkeypatch, **POD)
    assert [options[name] for name in ('nnodes', 'node_rank', 'max_restarts')] == ['2', 1, 0]
    assert [options[name] for name in ('master_addr', 'master_port')] == ['job-master-0', 23456]
    own = dict(NNODES='3', NODE_RANK='2', MASTER_ADDR='host0', PORT='29501')
    options = torchrun_options(tmp_path, script, monkeypatch, **{**POD, **own})
    assert [options[name] for name in ('nnodes', 'node_rank', 'master_addr', 'master_port')] == ['3', 2, 'host0', 29501]
    options = torchrun_options(tmp_path, script, monkeypatch)
    assert [options[name] for name in ('nnodes', 'node_rank', 'master_port')] == ['1', 0, 29500]


def test_the_pods_of_an_elastic_job_meet(tmp_path, monkeypatch):
    options = torchrun_options(tmp_path, 'dist_train.sh', monkeypatch, **ELASTIC_POD)
    assert [options[name] for name in ('nnodes', 'max_restarts', 'rdzv_id')] == ['2:4', 5, 'job']
    assert [options[name] for name in ('rdzv_backend', 'rdzv_endpoint')] == ['c10d', 'job-worker-0:23456']
    options = torchrun_options(tmp_path, 'dist_train.sh', monkeypatch, MAX_RESTARTS='3', MASTER_ADDR='host0')
    assert [options[name] for name in ('max_restarts', 'rdzv_endpoint')] == [3, 'host0:29500']


def test_training_under_slurm_gets_its_arguments_unchanged(tmp_path):
    words = srun_arguments(
        tmp_path, 'slurm_train.sh', 'gpu', 'my job', 'my config.py', 'my work', '--resume', 'a b.pth'
    )
    assert words[:2] == ['-p', 'gpu']
    assert {'--job-name=my job', '--ntasks=4', '-w', 'a,b', '--quiet', '--kill-on-bad-exit=1'} <= set(words)
    program = words[words.index('python') :]
    assert Path(program[2]).samefile(TOOLS / 'train.py')
    assert program[3:] == ['my config.py', '--work-dir=my work', '--launcher=slurm', '--resume', 'a b.pth']


def test_evaluation_under_slurm_gets_its_arguments_unchanged(tmp_path):
    words = srun_arguments(
        tmp_path, 'slurm_test.sh', 'gpu', 'job', 'my config.py', 'my checkpoint.pth', '--out', 'o.pkl'
    )
    program = words[words.index('python') :]
    assert Path(program[2]).samefile(TOOLS / 'test.py')
    assert program[3:] == ['my config.py', 'my checkpoint.pth', '--launcher=slurm', '--out', 'o.pkl']


@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh'])
def test_a_port_that_is_in_use_is_named(script):
    with socket.create_server(('127.0.0.1', 0)) as server:
        port = server.getsockname()[1]
        environment = {**os.environ, 'PORT': str(port)}
        job = subprocess.run([TOOLS / script, 'a.py', 'b', '1'], env=environment, capture_output=True, text=True)
    assert job.returncode == 2
    assert job.stderr.startswith(f'error: port {port} is in use on this machine: choose another, PORT={port + 1} ')


@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh', 'slurm_train.sh', 'slurm_test.sh'])
def test_without_arguments_a_script_says_what_it_needs(script):
    job = subprocess.run([TOOLS / script], capture_output=True, text=True)
    assert job.returncode == 2
    assert job.stderr.startswith('usage: ')
