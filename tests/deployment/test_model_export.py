"""A model that the tool exported finds the same as PyTorch's model, in every runtime and without PyTorch."""

import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from support.tiny_export import write_tiny
from support.tiny_semi import semi_model
from support.tiny_training import CLASSES

from mmdet_sag.datasets.config_datasets import config_images
from mmdet_sag.deployment import model_export
from mmdet_sag.deployment.comparison import BOUNDS
from mmdet_sag.deployment.exported_detector import ExportedDetector
from mmdet_sag.deployment.formats import FORMATS, OnnxFormat, load_exported
from mmdet_sag.deployment.graphs import build_graph
from mmdet_sag.deployment.model_export import ExportSettings
from mmdet_sag.deployment.quantization import calibration_batches
from mmdet_sag.errors import InputError

for package in ('onnx', 'onnxscript', 'onnxruntime', 'openvino'):
    pytest.importorskip(package, reason=f'exports need {package}')

ROOT = Path(__file__).parents[2]
# In the runtime's process, nothing may import these.
WITHOUT_TORCH = (
    'import runpy, sys; sys.modules.update(dict.fromkeys(["torch", "mmdet", "mmcv", "mmengine", "mmdet_sag"])); '
    'sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name="__main__")'
)


def run_tool(monkeypatch, path: str, *arguments: object) -> int:
    """Run a tool of this clone in this process; its exit status."""
    monkeypatch.setattr(sys, 'argv', [path, *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / 'tools' / path), run_name='__main__')
    return end.value.code


def write_instead(monkeypatch, model: Path) -> None:
    """Let an export to ONNX, which takes long, write a given model."""
    monkeypatch.setattr(OnnxFormat, 'write', lambda self, graph, path, *_: shutil.copy(model, path))


def run_runtime(*arguments: object) -> subprocess.CompletedProcess:
    """Run a runtime.py where torch and mmdet cannot be imported."""
    command = [sys.executable, '-c', WITHOUT_TORCH, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """A folder with data, a config, a checkpoint and, in ``onnx``, their export by the tool."""
    folder = tmp_path_factory.mktemp('my exports')
    config, checkpoint = write_tiny(folder)
    with pytest.MonkeyPatch.context() as monkeypatch:
        arguments = (config, checkpoint, '--out', folder / 'onnx', '--images', 4, '--runs', 1)
        assert run_tool(monkeypatch, 'deployment/export.py', *arguments) == 0
    return folder


@pytest.fixture(scope='module')
def openvino(folder) -> Path:
    metadata = json.loads((folder / 'onnx/report.json').read_text())['metadata']
    (folder / 'openvino').mkdir()
    with pytest.MonkeyPatch.context() as monkeypatch:
        write_instead(monkeypatch, folder / 'onnx/model.onnx')
        FORMATS['openvino'].write(None, folder / 'openvino/model.xml', {**metadata, 'format': 'openvino'})
    shutil.copy(folder / 'onnx/runtime.py', folder / 'openvino')
    return folder / 'openvino/model.xml'


@pytest.fixture(scope='module')
def detector(folder) -> torch.nn.Module:
    init_default_scope('mmdet')
    return model_export.build_detector(Config.fromfile(folder / 'tiny.py'), str(folder / 'tiny.pth'))


def test_the_report_says_what_was_exported_and_how_close_it_is(folder):
    report = json.loads((folder / 'onnx/report.json').read_text())
    assert report['metadata']['classes'] == list(CLASSES)
    assert report['metadata']['preprocessing']['resize'] == dict(mode='keep_ratio', scale=[90, 75], backend='pillow')
    assert len(report['metadata']['checkpoint']['sha256']) == 64
    assert report['agreement']['num_images'] == 4
    assert report['agreement']['num_detections'] > 20
    assert report['agreement']['num_found'] == report['agreement']['num_detections']
    assert all(report['agreement'][name] <= bound for name, bound in BOUNDS.items())
    assert report['seconds'].keys() == {'PyTorch', 'onnx'}
    assert sorted(path.name for path in (folder / 'onnx').iterdir()) == ['model.onnx', 'report.json', 'runtime.py']


@pytest.mark.parametrize('runtime', ['onnx', 'openvino'])
def test_the_exported_detector_predicts_the_masks_of_the_detector(folder, openvino, detector, runtime):
    path = openvino if runtime == 'openvino' else folder / 'onnx/model.onnx'
    config = Config.fromfile(folder / 'tiny.py')
    exported = ExportedDetector(str(path), config.model.data_preprocessor, CLASSES, num_threads=1)
    for batch in config_images(config, 4):
        with torch.inference_mode():
            expected = detector.test_step(batch)[0].pred_instances
        found = exported.test_step(batch)[0].pred_instances
        assert len(found) == len(expected) > 3
        torch.testing.assert_close(found.bboxes, expected.bboxes, atol=BOUNDS['boxes'], rtol=0)
        torch.testing.assert_close(found.mask_scores, expected.mask_scores, atol=BOUNDS['scores'], rtol=0)
        assert found.labels.tolist() == expected.labels.tolist()
        assert (found.masks.to_ndarray() != expected.masks.to_ndarray()).mean() < 1e-3


@pytest.mark.parametrize('runtime', ['onnx', 'openvino'])
def test_batches_of_any_size_and_images_without_objects(folder, openvino, detector, runtime):
    model = load_exported(str(openvino if runtime == 'openvino' else folder / 'onnx/model.onnx'), num_threads=1)
    graph = build_graph(detector)
    generator = np.random.default_rng(0)
    # In the last one, each level has rows and columns; in the first, the coarsest is a single position.
    for count, height, width in ((1, 64, 96), (3, 128, 64), (1, 288, 416)):
        images = generator.normal(0, 60, (count, 3, height, width)).astype(np.float32)
        sizes = np.array([[height, width - 3]] * count)
        outputs = model(images, sizes)
        assert set(outputs['image_indices']) == set(range(count))
        with torch.inference_mode():
            expected = graph(torch.from_numpy(images), torch.from_numpy(sizes))
        for name, value in expected._asdict().items():
            bound = BOUNDS.get(name, BOUNDS['scores'])
            np.testing.assert_allclose(outputs[name], value.numpy(), atol=bound, rtol=0, err_msg=name)
        # No box is left of what is clipped to nothing.
        outputs = model(images, np.zeros_like(sizes))
        assert len(outputs['boxes']) == 0 and outputs['mask_probs'].shape == (0, 28, 28)


@pytest.mark.parametrize('runtime', ['onnx', 'openvino'])
def test_the_runtime_alone_finds_the_same(folder, openvino, detector, tmp_path, runtime):
    place = (openvino if runtime == 'openvino' else folder / 'onnx/model.onnx').parent
    done = run_runtime(place / 'runtime.py', place, folder / 'data/images', '--out', tmp_path, '--score-thr', 0.1)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / 'results.json').read_text())
    for batch in config_images(Config.fromfile(folder / 'tiny.py'), 4):
        with torch.inference_mode():
            sample = detector.test_step(batch)[0]
        expected, name = sample.pred_instances, Path(sample.img_path).name
        assert [found['label'] for found in results[name]] == expected.labels.tolist()
        boxes = np.array([found['bbox'] for found in results[name]])
        boxes[:, 2:] += boxes[:, :2]
        assert np.abs(boxes - expected.bboxes.numpy()).max() < BOUNDS['boxes']
        texts = [mask['counts'].decode() for mask in expected.masks]
        equal = [found['segmentation']['counts'] == text for found, text in zip(results[name], texts)]
        assert np.mean(equal) > 0.8
        picture = cv2.imread(str(tmp_path / f'{name}.png'))
        assert picture.shape[:2] == sample.ori_shape
        drawn = int((expected.scores >= 0.1).sum())
        assert f'{name}: {drawn} objects drawn, of {len(expected)} in results.json' in done.stdout
        assert (picture != cv2.imread(sample.img_path)).any()


def test_the_test_tool_evaluates_an_exported_model(folder, monkeypatch, tmp_path):
    arguments = (folder / 'tiny.py', folder / 'onnx/model.onnx', '--work-dir', tmp_path)
    monkeypatch.chdir(tmp_path)
    assert run_tool(monkeypatch, 'test.py', *arguments) == 0
    (scores,) = tmp_path.glob('*/*.json')
    assert 'coco/segm_mAP' in json.loads(scores.read_text())


@pytest.mark.parametrize('options', [['--tta'], ['--amp']])
def test_flags_that_do_not_apply_to_an_exported_model_are_refused(folder, monkeypatch, capsys, tmp_path, options):
    arguments = (folder / 'tiny.py', folder / 'onnx/model.onnx', '--work-dir', tmp_path, *options)
    assert run_tool(monkeypatch, 'test.py', *arguments) == 2
    assert 'is an exported model' in capsys.readouterr().err


def test_exported_models_are_measured_beside_pytorch_s(folder, monkeypatch, capsys, tmp_path):
    arguments = (folder / 'tiny.py', folder / 'tiny.pth', folder / 'onnx/model.onnx', '--size', 60, 80, '--runs', 1)
    assert run_tool(monkeypatch, 'deployment/benchmark.py', *arguments, '--out', tmp_path / 'speed.json') == 0
    assert re.search(r' 1\.00  PyTorch', capsys.readouterr().out)
    assert len(json.loads((tmp_path / 'speed.json').read_text())['seconds']) == 2


def test_a_model_that_disagrees_does_not_replace_the_previous_one(folder, monkeypatch, tmp_path):
    shutil.copytree(folder / 'onnx', tmp_path / 'out')
    before = {path.name: path.read_bytes() for path in (tmp_path / 'out').iterdir()}
    write_instead(monkeypatch, folder / 'onnx/model.onnx')
    # Weights of another training: the exported model is not the checkpoint's.
    content = torch.load(folder / 'tiny.pth')
    content['state_dict']['bbox_head.conv_reg.bias'] += 0.5
    torch.save(content, tmp_path / 'other.pth')
    config = Config.fromfile(folder / 'tiny.py')
    with pytest.raises(InputError, match="disagrees with PyTorch's"):
        model_export.export(config, str(tmp_path / 'other.pth'), str(tmp_path / 'out'), ExportSettings(num_images=2))
    assert {path.name: path.read_bytes() for path in (tmp_path / 'out').iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ['other.pth', 'out']


def test_the_teacher_of_a_polite_teacher_is_exported(folder, monkeypatch, tmp_path):
    config = Config.fromfile(folder / 'tiny.py')
    config.model = semi_model(config.model)
    weights = torch.load(folder / 'tiny.pth')['state_dict']
    both = {
        f'{name}.{key}': value * scale
        for name, scale in (('teacher', 1), ('student', 0))
        for key, value in weights.items()
    }
    torch.save(dict(state_dict=both), tmp_path / 'semi.pth')
    write_instead(monkeypatch, folder / 'onnx/model.onnx')
    settings = ExportSettings(num_images=2, num_runs=0)
    report = model_export.export(config, str(tmp_path / 'semi.pth'), str(tmp_path / 'out'), settings)
    assert report['agreement']['num_found'] == report['agreement']['num_detections'] > 5
    assert report['metadata']['model'] == 'CenterMask'


def test_missing_training_images_are_named_before_int8_is_exported(folder, monkeypatch, tmp_path):
    config = Config.fromfile(folder / 'tiny.py')
    config.train_dataloader.dataset.ann_file = 'nowhere.json'
    with pytest.raises(InputError, match='nowhere.json cannot be read .*: check train_dataloader.dataset'):
        calibration_batches(config, 5)


def test_a_number_of_images_below_1_is_refused(folder, monkeypatch, capsys, tmp_path):
    arguments = (folder / 'tiny.py', folder / 'tiny.pth', '--out', tmp_path / 'out', '--calibration-images', 0)
    assert run_tool(monkeypatch, 'deployment/export.py', *arguments) == 2
    assert '--calibration-images 0: at least 1 is needed' in capsys.readouterr().err


def test_the_file_has_standard_operators_only(folder):
    import onnx

    model = onnx.load(folder / 'onnx/model.onnx')
    assert {node.domain for node in model.graph.node} == {''} and not model.functions
    assert {'NonMaxSuppression', 'RoiAlign', 'TopK'} <= {node.op_type for node in model.graph.node}


def test_a_folder_that_is_no_export_is_not_replaced(folder, monkeypatch, capsys):
    arguments = (folder / 'tiny.py', folder / 'tiny.pth', '--out', folder / 'data')
    assert run_tool(monkeypatch, 'deployment/export.py', *arguments) == 2
    assert 'holds something else than an export' in capsys.readouterr().err


def test_a_model_without_masks_is_refused(folder, monkeypatch, capsys, tmp_path):
    (tmp_path / 'boxes.py').write_text("_base_ = 'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py'\n")
    model = Config.fromfile(tmp_path / 'boxes.py').model
    model.backbone.init_cfg = None
    torch.save(dict(state_dict=MODELS.build(model).state_dict()), tmp_path / 'boxes.pth')
    arguments = (tmp_path / 'boxes.py', tmp_path / 'boxes.pth', '--out', tmp_path / 'out', '--images', 0)
    assert run_tool(monkeypatch, 'deployment/export.py', *arguments) == 2
    assert 'FCOS predicts no instance masks' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_a_step_that_the_runtime_does_not_know_is_refused(folder, tmp_path):
    config = Config.fromfile(folder / 'tiny.py')
    config.test_dataloader.dataset.pipeline.insert(2, dict(type='RandomFlip', prob=0.0))
    with pytest.raises(InputError, match='the test pipeline has RandomFlip'):
        model_export.export(config, str(folder / 'tiny.pth'), str(tmp_path / 'out'), ExportSettings(num_images=0))
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('kind', ['damaged', 'foreign', 'other version', 'no image', 'no weights'])
def test_the_runtime_names_unusable_input_in_one_line(folder, openvino, tmp_path, kind):
    import onnx

    model, image = tmp_path / 'model.onnx', folder / 'data/images/1.png'
    content = (folder / 'onnx/model.onnx').read_bytes()
    model.write_bytes(content[: len(content) // 2] if kind == 'damaged' else content)
    if kind in ('foreign', 'other version'):
        graph = onnx.load(model)
        entry = graph.metadata_props[[prop.key for prop in graph.metadata_props].index('mmdet_sag')]
        entry.value = entry.value.replace('"runtime_version": 1', '"runtime_version": 7')
        if kind == 'foreign':
            del graph.metadata_props[:]
        onnx.save(graph, model)
    if kind == 'no image':
        image = tmp_path / 'broken.jpg'
        image.write_bytes(b'no image')
    if kind == 'no weights':
        model = tmp_path / 'model.xml'
        shutil.copy(openvino, model)
    done = run_runtime(folder / 'onnx/runtime.py', model, image, '--out', tmp_path / 'out')
    words = {
        'damaged': 'is damaged',
        'foreign': 'was not exported by mmdet_sag',
        'other version': 'needs version 7 of the runtime',
        'no image': 'is no image, or damaged',
        'no weights': 'is missing: it holds the weights',
    }
    assert done.returncode == 2
    assert done.stderr.startswith('error: ') and done.stderr.count('\n') == 1 and words[kind] in done.stderr
