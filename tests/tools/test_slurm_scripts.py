import os
import subprocess
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / 'tools'


def srun_arguments(folder: Path, script: str, *arguments: str) -> list[str]:
    """Run a script with an ``srun`` that writes down its arguments."""
    srun = folder / 'srun'
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\nexit 7\n')
    srun.chmod(0o755)
    environment = {**os.environ, 'PATH': f'{folder}:{os.environ["PATH"]}', 'GPUS': '4', 'SRUN_ARGS': '-w a,b --quiet'}
    job = subprocess.run([TOOLS / script, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert job.returncode == 7, 'the status is that of the job'
    return job.stdout.splitlines()


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


@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh', 'slurm_train.sh', 'slurm_test.sh'])
def test_without_arguments_a_script_says_what_it_needs(script):
    job = subprocess.run([TOOLS / script], capture_output=True, text=True)
    assert job.returncode == 2
    assert job.stderr.startswith('usage: ')
