"""Random trainings that are interrupted and resumed equal those that never stopped, in every bit.

``KILLS=200`` runs that many combinations instead of a few. The seed in the name of a test is all that it is drawn from:
``KILLS=200 pytest 'tests/engine/test_kill_and_resume.py::test_nothing_differs_from_a_run_that_never_stopped[137]'``.

Not drawn, because docs/training.md says that they differ: several processes of another number, ``diff_rank_seed``, and
checkpoints within a gradient accumulation. ``CachedMosaic`` and ``CachedMixUp`` mix images of earlier batches, which no
checkpoint has.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from support.same_state import assert_same
from support.tiny_training import write_rectangles
from support.tool import run_tool
from support.training_combinations import NUM_IMAGES, Combination

from mmdet_sag.engine.checkpoint_files import newest_checkpoint

NUM_COMBINATIONS = int(os.environ.get('KILLS', '5'))
TOOL = Path(__file__).parents[1] / 'support/signalled_train.py'
# In the log, what differs from run to run.
MEASURED = ('time', 'memory', 'images_per_s', 'ram_mb')
# By a signal, handled or not.
INTERRUPTED = {sign * n + base for n in (1, 2, 9, 10, 15) for sign, base in ((1, 128), (-1, 0))}


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('data') / 'rectangles'
    write_rectangles(folder, NUM_IMAGES)
    return folder


def train(folder: Path, name: str, plan: str = 'none') -> int:
    """Train, and return the exit status. Only a signal may end it early."""
    job = run_tool(TOOL, folder / 'count', plan, folder / 'config.py', '--work-dir', folder / name, '--resume')
    assert job.returncode == 0 or (plan != 'none' and job.returncode in INTERRUPTED), (
        f'{plan}: status {job.returncode}\n{job.stderr[-3000:]}'
    )
    return job.returncode


def state(work_dir: Path) -> dict:
    """What a finished training leaves, without times and paths."""
    # Killed between the last checkpoint and last_checkpoint, a run has nothing left to do but to resume from it.
    checkpoint = torch.load(newest_checkpoint(str(work_dir)))
    parts = {name: value for name, value in checkpoint.items() if name not in ('meta', 'message_hub')}
    parts['position'] = checkpoint['meta']['epoch'], checkpoint['meta']['iter']
    hub = checkpoint['message_hub']
    parts['log'] = {
        name: [values.tolist() for values in buffer.data]
        for name, buffer in hub['log_scalars'].items()
        if not name.endswith(MEASURED)
    }
    info = hub['runtime_info']
    parts['best'] = {key: os.path.basename(str(info.get(key))) for key in ('best_score', 'best_ckpt')}
    parts['best weights'] = {path.name: torch.load(path)['state_dict'] for path in work_dir.glob('best_*.pth')}
    return parts


def logged(work_dir: Path) -> list[tuple[tuple, dict]]:
    """The lines of all logs of a training: each with its step and kind."""
    rows = []
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in path.read_text().splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                # The line that a killed process was writing.
                continue
            values = {key: value for key, value in row.items() if not key.endswith(MEASURED)}
            rows.append(((row['step'], 'score' in row), values))
    return rows


@pytest.mark.parametrize('seed', range(NUM_COMBINATIONS))
def test_nothing_differs_from_a_run_that_never_stopped(seed, data, tmp_path):
    combination = Combination(seed, data)
    # pytest shows them if the test fails.
    print(', '.join(combination.features))
    if 'AMP' in combination.features and not hasattr(torch.amp, 'GradScaler'):
        pytest.skip('this PyTorch has no loss scaler for CPUs')
    combination.write(tmp_path / 'config.py')
    assert train(tmp_path, 'straight') == 0
    plans = combination.interruptions(*map(int, (tmp_path / 'count').read_text().split()))
    for plan in [*plans, 'none']:
        status = train(tmp_path, 'interrupted', plan)
        print(f'{plan}: status {status}')
        if status == 0:
            break

    straight, interrupted = tmp_path / 'straight', tmp_path / 'interrupted'
    assert_same(state(straight), state(interrupted), 'checkpoint')
    expected, rows = dict(logged(straight)), logged(interrupted)
    assert {key for key, _ in rows} == expected.keys()
    for key, values in rows:
        assert values == expected[key], key
    keep = combination.config['default_hooks']['checkpoint']['max_keep_ckpts']
    if keep > 0:
        names = [path.name for path in interrupted.glob('[!b]*.pth')]
        assert len(names) <= keep + (combination.by_epoch and 'epoch' in str(names)), names
    assert not list(interrupted.rglob('*.partial'))
