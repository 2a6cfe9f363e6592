"""The command lines of the pages, and the jobs for Kubernetes and Slurm, with a simulated scheduler."""

import os
import re
import runpy
import shlex
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import yaml
from torch.distributed.run import get_args_parser

from mmdet_sag.__main__ import COMMANDS

ROOT = Path(__file__).parents[2]


def documented_commands() -> dict[str, list[list[str]]]:
    """The arguments of the tools in the pages' blocks, by tool."""
    commands = defaultdict(list)
    for page in (ROOT / 'README.md', *(ROOT / 'docs').glob('*.md'), *(ROOT / 'configs').glob('*/README.md')):
        for text in re.findall(r'```(?:bash|console)\n(.*?)```', page.read_text(), re.DOTALL):
            for line in text.replace('\\\n', '').splitlines():
                if command := re.search(r'(?:python ((?:tools|demo)/\S+\.py)|mmdet-sag ([a-z-]+))( [^|]*|$)', line):
                    tool = command[1] or COMMANDS.get(command[2], [None])[0]
                    commands[tool].append(shlex.split(command[3], comments=True))
    commands.pop(None, None)
    return commands


def test_tools_take_the_command_lines_of_the_pages(monkeypatch, capsys):
    commands = documented_commands()
    assert len(commands) > 12
    for tool, lines in commands.items():
        monkeypatch.syspath_prepend(str((ROOT / tool).parent))
        parse_args = runpy.run_path(str(ROOT / tool))['parse_args']
        for arguments in lines:
            monkeypatch.setattr(sys, 'argv', [tool, *arguments])
            try:
                parse_args()
            except SystemExit:
                pytest.fail(f'{tool} {shlex.join(arguments)}: {capsys.readouterr().err}')


def block(language: str) -> str:
    """The one block of code in a language."""
    (text,) = re.findall(rf'```{language}\n(.*?)```', (ROOT / 'docs/training.md').read_text(), re.DOTALL)
    return text


def write_program(path: Path, status: int = 0) -> None:
    """Write a program that notes its name and arguments, and the port of its environment."""
    path.write_text(f'#!/bin/sh\nprintf "%s\\n" "{path.name}" "$MASTER_PORT" "$@"\nexit {status}\n')
    path.chmod(0o755)


def run(command: list, folder: Path, **variables: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, 'PATH': f'{folder}:{os.environ["PATH"]}', **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_the_pods_of_the_job_for_kubernetes_meet(tmp_path):
    job = yaml.safe_load(block('yaml'))
    assert (job['apiVersion'], job['kind']) == ('kubeflow.org/v1', 'PyTorchJob')
    policy, worker = job['spec']['elasticPolicy'], job['spec']['pytorchReplicaSpecs']['Worker']
    assert policy['minReplicas'] <= worker['replicas'] <= policy['maxReplicas']
    pod = worker['template']['spec']
    (container,) = pod['containers']
    assert container['name'] == 'pytorch'
    assert {mount['name'] for mount in container['volumeMounts']} == {volume['name'] for volume in pod['volumes']}

    write_program(tmp_path / 'python')
    script, *arguments = container['command']
    words = run(
        [ROOT / script, *arguments],
        tmp_path,
        # As the operator sets them.
        PET_RDZV_BACKEND=policy['rdzvBackend'],
        PET_RDZV_ENDPOINT=f'{job["metadata"]["name"]}-worker-0:23456',
        PET_NNODES=f'{policy["minReplicas"]}:{policy["maxReplicas"]}',
        PET_MAX_RESTARTS=str(policy['maxRestarts']),
    ).stdout.splitlines()
    options = get_args_parser().parse_args(words[next(i for i, word in enumerate(words) if '--nnodes' in word) :])
    assert (options.nnodes, options.max_restarts) == ('2:2', 3)
    assert (options.rdzv_backend, options.rdzv_endpoint) == ('c10d', 'sag-worker-0:23456')
    assert int(options.nproc_per_node) == container['resources']['limits']['nvidia.com/gpu']
    assert Path(options.training_script).samefile(ROOT / 'tools/train.py')
    assert options.training_script_args == ['CONFIG', '--launcher', 'pytorch', '--work-dir', '/work', '--resume']


@pytest.mark.parametrize('status, requeued', [(143, True), (0, False), (2, False)])
def test_the_job_for_slurm_is_requeued_if_it_was_stopped_in_time(tmp_path, status, requeued):
    (tmp_path / 'job.sh').write_text(block('bash'))
    write_program(tmp_path / 'srun', status)
    write_program(tmp_path / 'scontrol')
    jobs = [
        run(['bash', tmp_path / 'job.sh'], tmp_path, SLURM_JOB_ID=f'1234{member}', SLURM_ARRAY_TASK_ID=member)
        for member in '12'
    ]
    ports = set()
    for member, job in zip('12', jobs):
        assert job.returncode == status
        words = job.stdout.splitlines()
        ports.add(words[1])
        assert {f'work_dirs/seed_{member}', f'randomness.seed={member}', '--resume', 'slurm'} <= set(words)
        assert ('scontrol' in words) == requeued
        assert not requeued or words[-2:] == ['requeue', f'1234{member}']
    assert len(ports) == 2
