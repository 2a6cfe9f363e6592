"""SA-UNet through the commands: MMSegmentation's configs, data sets and hooks with those of this package."""

import json
import os
import pickle
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import config as mmengine_config
from support.tool import run_tool

from mmdet_sag.checks import packages
from mmdet_sag.deployment.model_export import build_detector
from mmdet_sag.engine import launch
from mmdet_sag.errors import InputError

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / 'configs/sa_unet/sa-unet_1xb2-150e_chase-db1-1008x1008.py'
DATA_SETS = ('train_dataloader.dataset.dataset', 'val_dataloader.dataset', 'test_dataloader.dataset')
ENVIRONMENT = {**os.environ, 'OMP_NUM_THREADS': '1'}
needs_mmseg = pytest.mark.skipif(
    find_spec('mmseg') is None, reason='needs MMSegmentation: pip install -r requirements/segmentation.txt'
)


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """A folder with pictures of dark lines on a bright ground, in MMSegmentation's layout of CHASE_DB1."""
    folder = tmp_path_factory.mktemp('vessels')
    generator = np.random.default_rng(0)
    for split, count in dict(training=4, validation=2).items():
        images, labels = (folder / 'data' / kind / split for kind in ('images', 'annotations'))
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for i in range(count):
            # The sides are no multiples of 8.
            label = np.zeros((60, 68), np.uint8)
            for _ in range(3):
                start, end = (tuple(map(int, generator.integers(0, 60, 2))) for _ in range(2))
                cv2.line(label, start, end, 1, 3)
            image = np.where(label[..., None], 60, 180) + generator.integers(-20, 20, (60, 68, 3))
            cv2.imwrite(str(images / f'{split}_{i}.png'), image.astype(np.uint8))
            cv2.imwrite(str(labels / f'{split}_{i}_1stHO.png'), label)
    return folder


def run(
    tool: str, folder: Path, *arguments: object, work_dir: str, options: tuple[str, ...] = (), config: Path = CONFIG
) -> tuple[int, str]:
    options = (
        *(f'{place}.data_root={folder}/data' for place in DATA_SETS),
        *(
            f'{place.partition(".")[0]}.{key}'
            for place in DATA_SETS
            for key in ('num_workers=0', 'persistent_workers=0')
        ),
        'model.backbone.base_channels=2',
        'model.decode_head.in_channels=2',
        'model.decode_head.channels=2',
        'train_dataloader.dataset.times=1',
        'default_hooks.checkpoint.interval=1',
        'randomness.seed=0',
        *options,
    )
    process = run_tool(
        ROOT / 'tools' / tool,
        config,
        *arguments,
        *('--work-dir', folder / work_dir, '--cfg-options', *options),
        cwd=folder,
        env=ENVIRONMENT,
    )
    return process.returncode, process.stdout + process.stderr


def epochs(number: int) -> tuple[str, str]:
    return f'train_cfg.max_epochs={number}', 'train_cfg.val_interval=1'


@needs_mmseg
def test_a_training_resumes_as_if_it_had_never_stopped_and_is_tested_and_drawn(folder):
    status, output = run('train.py', folder, work_dir='whole', options=epochs(3))
    assert status == 0, output[-3000:]
    assert 'vessel/fov_AUC' in output
    status, output = run('train.py', folder, '--resume', 'whole/epoch_1.pth', work_dir='parts', options=epochs(3))
    assert status == 0, output[-3000:]
    assert 'Epoch(train) [1]' not in output
    whole, parts = (
        torch.load(folder / name / 'epoch_3.pth', weights_only=False)['state_dict'] for name in ('whole', 'parts')
    )
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    status, output = run(
        'test.py', folder, 'whole/epoch_3.pth', '--show-dir', 'drawn', '--out', 'out.pkl', work_dir='test'
    )
    assert status == 0, output[-3000:]
    assert 'vessel/F1' in output
    assert len(pickle.loads((folder / 'out.pkl').read_bytes())) == 2
    assert len(list((folder / 'drawn').rglob('test_validation_*.png'))) == 2
    # One view, as it is: the figures are the same.
    transforms = [[dict(type='RandomFlip', prob=0.0)], [dict(type='LoadAnnotations')], [dict(type='PackSegInputs')]]
    steps = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(960, 999), keep_ratio=True)]
    pipeline = [*steps, dict(type='TestTimeAug', transforms=transforms)]
    (folder / 'tta.py').write_text(f'_base_ = {str(CONFIG)!r}\ntta_pipeline = {pipeline}')
    status, output = run('test.py', folder, 'whole/epoch_3.pth', '--tta', work_dir='tta', config=folder / 'tta.py')
    assert status == 0, output[-3000:]
    plain, augmented = (
        {
            key: value
            for key, value in json.loads(next((folder / name).glob('*/*.json')).read_text()).items()
            if key.startswith('vessel')
        }
        for name in ('test', 'tta')
    )
    assert plain == pytest.approx(augmented) and len(plain) == 12


@needs_mmseg
def test_data_that_are_not_there_are_named_before_anything_runs(folder):
    status, output = run('train.py', folder, work_dir='none', options=('val_dataloader.dataset.data_root=nowhere',))
    assert status == 2
    assert output.strip().splitlines()[-1] == (
        "error: folder 'nowhere/images/validation' (val_dataloader.dataset.data_prefix) does not exist: put it or a "
        'link there, or set --cfg-options val_dataloader.dataset.data_root=DIR'
    )


@needs_mmseg
@pytest.mark.parametrize(
    ('tool', 'arguments'),
    [
        ('tools/analysis_tools/report.py', ['none.pth']),
        ('tools/misc/check_dataset.py', []),
        ('demo/image_demo.py', ['none.pth']),
    ],
)
def test_tools_for_detectors_say_so(tool, arguments, folder):
    first = [folder / 'data/images/validation'] if 'demo' in tool else []
    process = run_tool(ROOT / tool, *first, CONFIG, *arguments, cwd=folder, env=ENVIRONMENT)
    assert process.returncode == 2
    (line,) = [line for line in process.stderr.splitlines() if line.startswith('error: ')]
    assert line == 'error: the config is of mmseg, and this is for detectors: train.py and test.py run it'
    assert 'Traceback' not in process.stderr


def test_models_of_other_packages_are_not_exported():
    with pytest.raises(InputError, match='the config is of mmseg, and this is for detectors'):
        build_detector(mmengine_config.Config(dict(default_scope='mmseg')), 'none.pth')


def test_without_mmsegmentation_one_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(mmengine_config, 'is_installed', lambda package: False)
    monkeypatch.setattr(packages.importlib.util, 'find_spec', lambda name: None)
    message = "the config needs mmsegmentation: run 'pip install mmsegmentation ftfy regex'"
    arguments = launch.argparse.Namespace(config=str(CONFIG), launcher='none')
    with pytest.raises(InputError, match=message):
        launch.load_config(arguments)
    with pytest.raises(InputError, match=message):
        packages.check_other_package(mmengine_config.Config(dict(default_scope='mmseg')), 'train')
