import json
from pathlib import Path

import cv2
import pytest
from support.tool import run_tool

ROOT = Path(__file__).resolve().parents[2]


def run(tmp_path, *options):
    folders = ('--work-dir', tmp_path / 'work', '--data-root', tmp_path / 'my data (1)')
    result = run_tool(ROOT / 'demo/run_demo.py', '--quick', *options, *folders, timeout=1200)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_demo_trains_evaluates_and_draws_and_does_not_train_twice(tmp_path, request):
    first = run(tmp_path)
    assert 'mask AP75' in first
    assert cv2.imread(str(tmp_path / 'work/results.png')).std() > 10
    assert cv2.imread(str(tmp_path / 'work/training_curve.png')).std() > 1
    (metrics_file,) = (tmp_path / 'work/test').glob('*/*.json')
    metrics = json.loads(metrics_file.read_text())
    assert f'mask AP   | {metrics["coco/segm_mAP"]:.3f}' in first
    assert len(list((tmp_path / 'work/train').glob('*/vis_data/scalars.json'))) == 1

    request.getfixturevalue('forked_torchrun')
    second = run(tmp_path)
    assert 'finished already' in second
    assert len(list((tmp_path / 'work/train').glob('*/vis_data/scalars.json'))) == 1
    assert table(second) == table(first)


@pytest.mark.usefixtures('forked_torchrun')
def test_the_panoptic_demo_trains_evaluates_and_draws(tmp_path):
    output = run(tmp_path, '--panoptic')
    assert cv2.imread(str(tmp_path / 'work/results.png')).std() > 10
    assert cv2.imread(str(tmp_path / 'work/training_curve.png')).std() > 1
    (metrics_file,) = (tmp_path / 'work/test').glob('*/*.json')
    metrics = json.loads(metrics_file.read_text())
    rows = [line.split('|')[1:3] for line in table(output)]
    assert [float(value) for name, value in rows if name.strip() == 'PQ'] == [
        round(metrics['coco_panoptic/PQ'] / 100, 3)
    ]
    assert len(list((tmp_path / 'work/test/predictions.panoptic').iterdir())) == 8


def table(output):
    return [line for line in output.splitlines() if line.startswith('| ')]
