"""The benchmark runs and reports; what it measures is no matter of tests."""

import json
import sys
from importlib.util import module_from_spec, spec_from_file_location

import pytest
from mmengine.hub import get_config
from support.small_graph import metadata, write_onnx
from support.tiny import tiny_config
from support.tiny_checkpoint import write_tiny_checkpoint
from test_train_and_test import TOOLS

from mmdet_sag.command_line import ExitStatus

_SPEC = spec_from_file_location('benchmark', TOOLS / 'analysis_tools/benchmark.py')
benchmark = module_from_spec(_SPEC)
sys.path.insert(0, str(TOOLS / 'analysis_tools'))
_SPEC.loader.exec_module(benchmark)

from benchmark_models import STAGES  # noqa: E402

SOLO = 'mmdet::solov2/solov2-light_r18_fpn_ms-3x_coco.py'
BOXES = 'mmdet::yolox/yolox_tiny_8xb8-300e_coco.py'


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp('benchmark') / 'tiny.py'
    tiny = tiny_config()
    for step in tiny.test_dataloader.dataset.pipeline:
        if step.type == 'Resize':
            step.scale = (96, 64)
    tiny.dump(path)
    return str(path)


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, 'argv', ['benchmark.py', *map(str, arguments)])
    benchmark.main()


def test_models_are_measured_side_by_side_and_stage_by_stage(config, monkeypatch, capsys, tmp_path):
    arguments = (config, f'{config}+plain', f'{config}+direct+amp', '--size', 60, 90, '--detections', 7)
    run(monkeypatch, *arguments, '--runs', 2, '--warmup', 1, '--out-dir', tmp_path, '--device', 'cpu')
    models = json.loads((tmp_path / 'benchmark.json').read_text())['models']
    assert [model['model'] for model in models] == [config, f'{config}+plain', f'{config}+direct+amp']
    for model in models:
        stages = {stage for stage, spread in model['stages'].items() if spread['median'] > 0}
        # Without anything found by random weights, nothing goes through NMS.
        assert stages >= set(STAGES) - {'NMS'}
        assert model['parameters'] > 0 and model['gflops'] > 0 and model['images_per_s'] > 0
    assert models[0]['share_of_first'] == 1
    table = capsys.readouterr().out
    assert 'tiny+plain' in table and 'post-processing' in table
    assert (tmp_path / 'benchmark.png').stat().st_size > 1000


def one_stage(name, folder):
    """A small one-stage model of MMDetection."""
    config = get_config(dict(rtmdet='mmdet::rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py', solo=SOLO)[name])
    config.model.data_preprocessor.pad_size_divisor = 32
    if name == 'solo':
        config.model.mask_head.num_grids = [6, 5, 4, 3, 2]
        config.model.test_cfg.nms_pre = 20
    for step in config.test_dataloader.dataset.pipeline:
        if step.type in ('Resize', 'Pad'):
            step.update({'scale' if step.type == 'Resize' else 'size': (96, 64)})
    config.dump(folder / f'{name}.py')
    return str(folder / f'{name}.py')


@pytest.mark.parametrize('train', [False, True], ids=['inference', 'training'])
def test_one_stage_models_stand_beside_others_at_several_batch_sizes(train, config, monkeypatch, capsys, tmp_path):
    models = [config, one_stage('rtmdet', tmp_path), one_stage('solo', tmp_path)]
    arguments = ('--size', 60, 90, '--batch-size', 1, 2, '--runs', 1, '--warmup', 0, '--device', 'cpu')
    run(monkeypatch, *models, *arguments, '--out-dir', tmp_path, *(['--train'] if train else ['--detections', 5]))
    results = json.loads((tmp_path / 'benchmark.json').read_text())['models']
    assert [(result['model'], result['batch_size']) for result in results] == [(m, n) for n in (1, 2) for m in models]
    assert all(result['total']['median'] > 0 for result in results)
    if not train:
        assert all(result['found'] == 5 for result in results)
        stages = {stage for stage, spread in results[1]['stages'].items() if spread['median'] > 0}
        assert stages >= {'backbone', 'neck', 'box head', 'post-processing', 'encoding'}
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[:2] for row in rows[-7:-1]] == [[n, b] for b in '12' for n in ('tiny', 'rtmdet', 'solo')]


@pytest.mark.parametrize('axis', ['size', 'detections', 'batch'])
def test_growth_is_measured_and_drawn(axis, config, monkeypatch, tmp_path):
    arguments = (config, '--runs', 1, '--warmup', 0, '--size', 60, 90, '--device', 'cpu', '--out-dir', tmp_path)
    run(monkeypatch, *arguments, '--grow', f'{axis}=32,64' if axis == 'size' else f'{axis}=1,3')
    small, large = json.loads((tmp_path / 'benchmark.json').read_text())['growth'][axis]
    assert small['value'] < large['value']
    if axis == 'size':
        assert large['models'][0]['input'] == [64, 85]
    assert (tmp_path / f'growth_{axis}.png').stat().st_size > 1000


def test_masks_alone_are_measured(monkeypatch, capsys, tmp_path):
    run(monkeypatch, '--masks', '80x133', '--num-masks', 5, '--runs', 2, '--device', 'cpu', '--out-dir', tmp_path)
    (result,) = json.loads((tmp_path / 'benchmark.json').read_text())['masks']
    assert result['size'] == [80, 133] and result['num_masks'] == 5 and result['times_faster'] > 0
    assert '5 masks on 80x133' in capsys.readouterr().out


def test_a_model_of_one_size_gets_an_image_that_fits_into_it(monkeypatch, tmp_path):
    pytest.importorskip('onnxruntime')
    write_tiny_checkpoint(tmp_path)
    preprocessing = dict(metadata()['preprocessing'], resize=dict(mode='fit', scale=[32, 32], backend='pillow'))
    write_onnx(tmp_path / 'exported', input_size=[32, 32], preprocessing=preprocessing)
    monkeypatch.chdir(tmp_path)
    arguments = ('--checkpoints', 'model.pth', '--exported', 'exported', '--runs', 1, '--warmup', 0, '--device', 'cpu')
    run(monkeypatch, 'config.py', *arguments, '--out', tmp_path)
    results = json.loads((tmp_path / 'benchmark.json').read_text())['exported']
    assert results['input'] == [32, 32] and results['seconds'].keys() == {'PyTorch', 'exported'}


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], 'nothing to measure'),
        (['missing.py'], 'config missing.py does not exist'),
        (['CONFIG+fast'], 'unknown option fast, choose from plain, direct, compile, amp, bf16'),
        (['CONFIG', '--checkpoints', 'a', 'b'], '1 models, but 2 checkpoints'),
        (['CONFIG', '--exported', 'model.onnx'], 'the one config'),
        (['--masks', '800'], 'write height and width as in 800x1333'),
        (['CONFIG', '--image', 'missing.jpg'], 'image missing.jpg cannot be read'),
        (['CONFIG', '--runs', '0'], 'at least one run'),
        (['CONFIG', '--device', 'cuda:99'], '--device cuda:99 cannot be used here'),
        (['CONFIG', '--batch-size', '0'], 'at least one image'),
        (['BOXES', '--size', '64', '64'], 'predicts no masks'),
        (['CONFIG', '--grow', 'depth=1,2'], 'write an axis, size, detections, batch'),
        (['CONFIG', '--grow', 'size=0'], 'write an axis'),
        (['--masks', '80x80', '--grow', 'batch=1'], 'name the configs'),
    ],
)
def test_bad_input_gets_one_line(config, arguments, message, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(
        sys,
        'argv',
        [
            'benchmark.py',
            *(a.replace('CONFIG', config).replace('BOXES', BOXES) for a in arguments),
            '--out-dir',
            str(tmp_path),
        ],
    )
    with pytest.raises(SystemExit) as exit:
        benchmark.run_command(benchmark.main)
    assert exit.value.code == ExitStatus.INPUT_ERROR
    # PyTorch may warn of something else.
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
    assert message in line
