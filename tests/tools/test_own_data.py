"""From labels of another tool to a trained model, as the commands that a person types."""

import json
import math
import re
import shlex
from pathlib import Path

import pytest
from demo_shapes import make_demo_shapes
from support.label_exports import write_yolo
from support.tool import run_tool

ROOT = Path(__file__).parents[2]


def run(tool, *arguments, cwd):
    return run_tool(ROOT / 'tools' / tool, *arguments, cwd=cwd)


@pytest.fixture(scope='module')
def labels(tmp_path_factory):
    """40 training images with labels of YOLO."""
    folder = tmp_path_factory.mktemp('own data')
    make_demo_shapes(folder / 'shapes', num_train=40, num_val=2, image_size=64)
    parts = {}
    for split in ('train', 'val'):
        content = json.loads((folder / f'shapes/annotations/instances_{split}2017.json').read_text())
        parts[split] = (content, folder / f'shapes/{split}2017')
    write_yolo(folder / 'labels', parts, tuple(category['name'] for category in content['categories']))
    return folder


def test_three_commands_train_from_random_weights_without_nan(labels):
    finished = run('dataset_converters/to_coco.py', 'labels', '--out', 'my data', cwd=labels)
    assert finished.returncode == 0, finished.stderr
    assert 'YOLO segmentation, 42 images, 6 classes' in finished.stdout
    # The next command stands there ready.
    command = shlex.split(re.search(r'next: mmdet-sag make-config (.*)', finished.stdout)[1])
    command[command.index('--model') + 1] = 'centermask-lite_v19-slim-dw'

    small = ['--weights', 'random', '--short-side', 64, '--batch-size', 2, '--epochs', 1]
    finished = run('misc/make_config.py', *command, *small, cwd=labels)
    assert finished.returncode == 0, finished.stderr
    for chosen in ('start ', 'batch size ', 'image size ', 'schedule ', 'learning rate '):
        assert f'\n{chosen}' in finished.stdout
    assert 'next: mmdet-sag train my.py' in finished.stdout

    options = ['default_hooks.logger.interval=1', 'train_cfg.val_interval=100', 'train_dataloader.num_workers=0']
    options += ['train_dataloader.persistent_workers=False', 'param_scheduler.0.end=2']
    finished = run('train.py', 'my.py', '--cfg-options', *options, cwd=labels)
    assert finished.returncode == 0, finished.stderr
    log = next((labels / 'work_dirs/my').glob('*/vis_data/scalars.json')).read_text().splitlines()
    losses = [row['loss'] for row in map(json.loads, log) if 'loss' in row]
    assert len(losses) == 20
    assert all(map(math.isfinite, losses)) and sum(losses[-5:]) < sum(losses[:5])


def test_the_old_name_of_an_option_works_with_a_warning(labels):
    arguments = ['labels', '--out', 'resplit', '--val', 0.5, '--split-anew']
    finished = run('dataset_converters/to_coco.py', *arguments, cwd=labels)
    assert finished.returncode == 0
    assert 'warning: --split-anew is now called --resplit\n' in finished.stderr
    assert 'split: 0.5 for validation' in finished.stdout


@pytest.mark.parametrize(
    ('tool', 'arguments', 'message'),
    [
        ('dataset_converters/to_coco.py', ['absent', '--out', 'new'], "'absent' does not exist"),
        ('dataset_converters/to_coco.py', ['labels', '--out', 'new', '--rename', 'star'], 'is not OLD=NEW'),
        ('dataset_converters/to_coco.py', ['labels', '--out', 'new', '--images', 'phtos'], "'phtos' is not a folder"),
        ('misc/check_dataset.py', ['shapes', '--images', 'phtos'], "--images 'phtos' is not a folder"),
        (
            'misc/make_config.py',
            ['labels', '--model', 'centermask_v39', '--out', 'new.py'],
            'mmdet-sag convert-data labels --out DIR',
        ),
        ('misc/make_config.py', ['labels', '--model', 'centermask_v39', '--out', 'new'], 'name it new.py'),
    ],
)
def test_a_mistake_is_one_line(tool, arguments, message, labels):
    finished = run(tool, *arguments, cwd=labels)
    errors = [line for line in finished.stderr.splitlines() if line.startswith('error: ')]
    assert len(errors) == 1 and message in errors[0], finished.stderr
    assert 'Traceback' not in finished.stderr and finished.returncode == 2
    assert not (labels / 'new').exists() and not (labels / 'new.py').exists()
