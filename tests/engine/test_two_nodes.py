"""Distributed training on two machines: network namespaces with a cable between them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from support.tiny_training import rectangles_config, write_rectangles
from support.tool import run_tool

ROOT = Path(__file__).parents[2]
ADDRESSES = ('10.213.7.1', '10.213.7.2')
PORT = str(20000 + (os.getpid() + 2500) % 10000)


def ip(*words: str) -> None:
    done = subprocess.run(['ip', *words], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f'needs the right to make network namespaces: ip {" ".join(words)}: {done.stderr.strip()}')


@pytest.fixture
def nodes() -> Iterator[tuple[str, str]]:
    """Names of two namespaces. Each has one interface, of its own name."""
    if shutil.which('ip') is None:
        pytest.skip('needs the command ip (iproute2)')
    names = tuple(f'sag{letter}{os.getpid()}' for letter in 'ab')
    try:
        for name in names:
            ip('netns', 'add', name)
        first, second = names
        ip('link', 'add', first, 'netns', first, 'type', 'veth', 'peer', 'name', second, 'netns', second)
        for name, address in zip(names, ADDRESSES):
            ip('-n', name, 'address', 'add', f'{address}/24', 'dev', name)
            for interface in ('lo', name):
                ip('-n', name, 'link', 'set', interface, 'up')
        yield names
    finally:
        for name in names:
            subprocess.run(['ip', 'netns', 'delete', name], capture_output=True)


def write_config(folder: Path) -> None:
    """Write a config of a training with data, in which rank 1 is killed in the first attempt."""
    write_rectangles(folder / 'data')
    config = rectangles_config(folder / 'data')
    config.custom_imports = dict(
        imports=['mmdet_sag', 'support.training_combinations', 'support.killed_once'], allow_failed_imports=False
    )
    config.model = dict(type='SmallModel')
    config.val_evaluator = dict(type='ChangingScore')
    config.default_hooks.checkpoint.save_best = None
    for hook in ('fast_training', 'class_count'):
        del config.default_hooks[hook]
    config.custom_hooks = [dict(type='EMAHook'), dict(type='KilledOnce', rank=1, iteration=6)]
    config.train_cfg.max_iters = 8
    config.dump(folder / 'config.py')


def environment(**variables: str) -> dict[str, str]:
    paths = [ROOT, ROOT / 'tests', *filter(None, [os.environ.get('PYTHONPATH')])]
    return {
        **os.environ,
        'PATH': os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']]),
        'PYTHONPATH': os.pathsep.join(map(str, paths)),
        'OMP_NUM_THREADS': '1',
        **variables,
    }


def train_here(folder: Path, rank: int) -> int:
    """Train as one of two processes of this machine, and return the exit status."""
    variables = environment(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=PORT
    )
    arguments = (folder / 'config.py', '--work-dir', folder / 'straight', '--launcher', 'pytorch')
    return run_tool(ROOT / 'tools/train.py', *arguments, env=variables).returncode


def train_on(node: str, address: str, folder: Path) -> subprocess.Popen:
    first = address == ADDRESSES[0]
    # The script's own variables, and those of Kubernetes' training operator.
    job = (
        dict(NNODES='2', MAX_RESTARTS='1', MASTER_ADDR=ADDRESSES[0], PORT=PORT)
        if first
        else dict(
            PET_NNODES='2',
            PET_MAX_RESTARTS='1',
            PET_RDZV_BACKEND='c10d',
            PET_RDZV_ENDPOINT=f'{ADDRESSES[0]}:{PORT}',
        )
    )
    # As docs/training.md says for machines whose names are not known to each other.
    names = dict(PET_LOCAL_ADDR=address, PET_RDZV_CONF=f'is_host={int(first)}', GLOO_SOCKET_IFNAME=node)
    script = [ROOT / 'tools/dist_train.sh', folder / 'config.py', '1', '--work-dir', folder / 'work', '--resume']
    with open(folder / f'{node}.log', 'w') as log:
        return subprocess.Popen(
            ['ip', 'netns', 'exec', node, *script], env=environment(**job, **names), stdout=log, stderr=log
        )


def test_two_nodes_go_on_after_a_process_was_killed(nodes, tmp_path):
    write_config(tmp_path)
    jobs = [train_on(node, address, tmp_path) for node, address in zip(nodes, ADDRESSES)]
    try:
        statuses = [job.wait(timeout=400) for job in jobs]
    finally:
        for job in jobs:
            job.kill()
    logs = [(tmp_path / f'{node}.log').read_text() for node in nodes]
    assert statuses == [0, 0], '\n'.join(log[-3000:] for log in logs)
    assert any('Signal 9 (SIGKILL)' in log or 'exitcode: -9' in log for log in logs), logs[1][-3000:]
    assert any('resumed epoch: 0, iter: 4' in log for log in logs), logs[0][-3000:]

    with ThreadPoolExecutor() as pool:
        assert list(pool.map(lambda rank: train_here(tmp_path, rank), range(2))) == [0, 0]
    straight, resumed = (torch.load(tmp_path / name / 'iter_8.pth') for name in ('straight', 'work'))
    for part in ('state_dict', 'ema_state_dict'):
        assert straight[part].keys() == resumed[part].keys()
        for key, value in straight[part].items():
            assert torch.equal(value, resumed[part][key]), f'{part}.{key}'
