from pathlib import Path

import pytest
import torch
from support.tool import run_tool

TRAINING = Path(__file__).parents[2] / 'support/distributed_training.py'


def train(work_dir: Path, case: str, accumulative_counts: int = 1) -> list[str]:
    """Run ``distributed_training.py`` on two processes, and return the errors that they ended with."""
    job = run_tool(TRAINING, work_dir, case, accumulative_counts, processes=2)
    errors = [work_dir / f'error_{rank}' for rank in range(2)]
    assert all(path.is_file() for path in errors), job.stderr[-3000:]
    assert job.stderr.count('error: ') == 1 and 'Traceback' not in job.stderr.split('error: ')[0], job.stderr[-3000:]
    return [path.read_text() for path in errors]


@pytest.mark.parametrize('accumulative_counts, before', [(1, 4), (3, 3)])
def test_what_one_process_meets_stops_both_with_one_state(tmp_path, accumulative_counts, before):
    first, second = train(tmp_path, 'nan', accumulative_counts)
    assert first == second
    assert f'not finite in iteration 5: loss=nan on {(tmp_path / "images").read_text()}. The state' in first
    for path in tmp_path.glob('*.pth'):
        checkpoint = torch.load(path)
        for part in ('state_dict', 'ema_state_dict'):
            assert all(value.isfinite().all() for value in checkpoint[part].values())
    newest = torch.load((tmp_path / 'last_checkpoint').read_text())
    assert newest['meta']['iter'] == before


def test_both_processes_know_that_one_could_not_write(tmp_path):
    first, second = train(tmp_path, 'full')
    assert first == second
    assert f'from {tmp_path / "iter_2.pth"}' in first
    assert [path.name for path in tmp_path.glob('*.pth')] == ['iter_2.pth']
