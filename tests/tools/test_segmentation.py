"""SA-UNet through the commands: MMSegmentation's configs, data sets and hooks with those of this package."""

import json
import os
import pickle
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from mmengine.config import config as mmengine_config
from support.tiny_vessels import DATA_SETS, FEW_CHANNELS, FULL_SIZE, write_vessels
from support.tool import run_tool

from mmdet_sag.checks import packages
from mmdet_sag.engine import launch
from mmdet_sag.errors import InputError

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, 'OMP_NUM_THREADS': '1'}
needs_mmseg = pytest.mark.skipif(
    find_spec('mmseg') is None, reason='needs MMSegmentation: pip install -r requirements/segmentation.txt'
)


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('vessels')
    write_vessels(folder / 'data')
    return folder


def run(
    tool: str, folder: Path, *arguments: object, work_dir: str, options: tuple[str, ...] = (), config: Path = FULL_SIZE
) -> tuple[int, str]:
    options = (
        *(f'{place}.data_root={folder}/data' for place in DATA_SETS),
        *(
            f'{place.partition(".")[0]}.{key}'
            for place in DATA_SETS
            for key in ('num_workers=0', 'persistent_workers=0')
        ),
        *(f'{key}={value}' for key, value in FEW_CHANNELS.items()),
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
    (folder / 'tta.py').write_text(f'_base_ = {str(FULL_SIZE)!r}\ntta_pipeline = {pipeline}')
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
        ('tools/analysis_tools/benchmark.py', ['--checkpoints', 'none.pth', '--exported', 'none']),
        ('tools/misc/check_dataset.py', []),
        ('demo/image_demo.py', ['none.pth']),
    ],
)
def test_tools_for_detectors_say_so(tool, arguments, folder):
    first = [folder / 'data/images/validation'] if 'demo' in tool else []
    process = run_tool(ROOT / tool, *first, FULL_SIZE, *arguments, cwd=folder, env=ENVIRONMENT)
    assert process.returncode == 2
    (line,) = [line for line in process.stderr.splitlines() if line.startswith('error: ')]
    others = 'train.py, test.py, export.py and report.py take it'
    assert line == f'error: the config is of mmseg, and this is for detectors: {others}'
    assert 'Traceback' not in process.stderr


def test_without_mmsegmentation_one_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(mmengine_config, 'is_installed', lambda package: False)
    monkeypatch.setattr(packages.importlib.util, 'find_spec', lambda name: None)
    message = "the config needs mmsegmentation: run 'pip install mmsegmentation ftfy regex'"
    arguments = launch.argparse.Namespace(config=str(FULL_SIZE), launcher='none')
    with pytest.raises(InputError, match=message):
        launch.load_config(arguments)
    with pytest.raises(InputError, match=message):
        packages.check_other_package(mmengine_config.Config(dict(default_scope='mmseg')), 'train')
