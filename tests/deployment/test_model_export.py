"""A model that the tool exported finds the same as PyTorch's model, in every runtime and without PyTorch."""

import copy
import json
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from support.tiny import import_classes
from support.tiny_export import assert_same_detections, run_here, write_tiny
from support.tiny_semi import semi_model
from support.tiny_training import CLASSES

from mmdet_sag.datasets.data_sources import config_images
from mmdet_sag.deployment import exported_detector, model_export, runtime
from mmdet_sag.deployment.comparison import BOUNDS, compare
from mmdet_sag.deployment.exported_detector import ExportedDetector
from mmdet_sag.deployment.formats import FORMATS, OnnxFormat, load_predictor
from mmdet_sag.deployment.graphs import build_graph
from mmdet_sag.deployment.metadata import describe
from mmdet_sag.deployment.model_export import ExportSettings
from mmdet_sag.deployment.quantization import Operator, _kept_in_float, calibration_batches
from mmdet_sag.errors import InputError
from mmdet_sag.visualization import keep_score_thr, picture_score_thr

for package in ('onnx', 'onnxscript', 'onnxruntime', 'openvino'):
    pytest.importorskip(package, reason=f'exports need {package}')

ROOT = Path(__file__).parents[2]
# In the runtime's process, nothing may import these.
WITHOUT_TORCH = (
    'import runpy, sys; sys.modules.update(dict.fromkeys(["torch", "mmdet", "mmcv", "mmengine", "mmdet_sag"])); '
    'sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name="__main__")'
)


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
    keep_score_thr(checkpoint, 0.25)
    with pytest.MonkeyPatch.context() as monkeypatch:
        arguments = (config, checkpoint, '--out', folder / 'onnx', '--images', 4, '--runs', 1)
        assert run_here(monkeypatch, 'deployment/export.py', *arguments) == 0
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
    # That of the checkpoint's report; the runtime and test.py --show-dir take it.
    model = folder / 'onnx/model.onnx'
    assert report['metadata']['picture_score_thr'] == picture_score_thr(model) == 0.25
    assert runtime.Predictor(model, num_threads=1).picture_score_thr == 0.25
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
    assert_same_detections(detector, exported, config, 'mask_scores')


@pytest.mark.parametrize('runtime', ['onnx', 'openvino'])
def test_batches_of_any_size_and_images_without_objects(folder, openvino, detector, runtime):
    model = load_predictor(str(openvino if runtime == 'openvino' else folder / 'onnx/model.onnx'), num_threads=1).model
    graph = build_graph(detector)
    generator = np.random.default_rng(0)
    # In the last one, each level has rows and columns; in the first, the coarsest is a single position.
    for count, height, width in ((1, 64, 64), (3, 128, 64), (1, 288, 416)):
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
        # Enlarged, so that names fit.
        zoom = -(-480 // min(sample.ori_shape))
        assert picture.shape[:2] == tuple(zoom * side for side in sample.ori_shape)
        drawn = int((expected.scores >= 0.1).sum())
        assert f'{name}: {drawn} objects drawn, of {len(expected)} in results.json' in done.stdout
        plain = cv2.imread(sample.img_path)
        enlarged = cv2.resize(plain, picture.shape[1::-1], interpolation=cv2.INTER_CUBIC)
        assert (picture != enlarged).any() == bool(drawn)


def test_a_folder_is_run_to_its_end_and_what_cannot_be_read_is_named(openvino, folder, tmp_path, capsys):
    source = tmp_path / 'pictures'
    shutil.copytree(folder / 'data/images', source / 'more')
    names = sorted(f'more/{path.name}' for path in (source / 'more').iterdir())
    (source / 'broken.jpg').write_bytes(b'no image')
    cv2.imwrite(str(source / 'thin.png'), np.zeros((1, 2000, 3), np.uint8))
    cv2.imwrite(str(source / 'elongated.png'), np.zeros((33, 900, 3), np.uint8))
    # In the folder itself: a second run must not take the first one's pictures for images.
    arguments = [openvino, source, '--out', source / 'results', '--device', 'cpu', '--batch-size', 3]
    for _ in range(2):
        assert runtime.run([*map(str, arguments)]) == 1
        printed = capsys.readouterr().err
        assert 'broken.jpg: is no image, or damaged' in printed and '2 of 7 images were left out' in printed
        assert 'thin.png: an image of 2000x1 pixels is too narrow' in printed
        assert sorted(json.loads((source / 'results/results.json').read_text())) == ['elongated.png', *names]
        assert (source / f'results/{names[0]}.png').is_file()


def test_the_predictor_takes_batches_files_classes_and_scores(openvino, folder):
    paths = sorted((folder / 'data/images').iterdir())
    predictor = runtime.Predictor(openvino, num_threads=1, device='AUTO')
    alone = [predictor(path) for path in paths]
    assert predictor([]) == [] and len({read.shape for read in map(runtime.read_image, paths)}) == 1
    assert json.dumps([predictor.as_json(result) for result in predictor(paths)]) == json.dumps(
        [predictor.as_json(result) for result in alone]
    )
    scores = np.concatenate([result['scores'] for result in alone])
    limit = float(np.median(scores))
    few = runtime.Predictor(openvino, num_threads=1, score_thr=limit, classes=[CLASSES[1]])
    expected = [result['scores'][(result['labels'] == 1) & (result['scores'] >= limit)] for result in alone]
    assert 0 < sum(map(len, expected)) < len(scores)
    for one, path in zip(expected, paths):
        np.testing.assert_array_equal(few(path)['scores'], one)
    with pytest.raises(runtime.RuntimeInputError, match="has no class 'zebra', but "):
        runtime.Predictor(openvino, classes=['zebra'])
    with pytest.raises(runtime.RuntimeInputError, match='device GPU.7: OpenVINO finds CPU here'):
        runtime.Predictor(openvino, device='gpu.7')


def test_the_size_can_be_bounded_in_openvino(folder, openvino):
    from openvino import Core

    core = Core()
    model = core.read_model(openvino)
    # As docs/deployment.md says.
    model.reshape({'images': '1..4,3,64..1344,64..1344', 'image_sizes': '1..4,2'})
    bounded = core.compile_model(model, 'CPU', dict(INFERENCE_PRECISION_HINT='f32'))
    predictor = runtime.Predictor(openvino, num_threads=1)
    inputs = predictor.prepare([runtime.read_image(path) for path in sorted((folder / 'data/images').iterdir())])
    for found, expected in zip(bounded(inputs).values(), predictor.model(*inputs).values()):
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(RuntimeError, match="doesn't match|incompatible|compatible"):
        bounded((np.zeros((5, 3, 64, 64), np.float32), np.full((5, 2), 64)))


def test_a_model_of_one_input_size(folder, monkeypatch, capsys, tmp_path):
    config, checkpoint, out = folder / 'tiny.py', folder / 'tiny.pth', tmp_path / 'out'
    arguments = (config, checkpoint, '--format', 'openvino', '--out', out, '--images', 2, '--runs', 0)
    assert run_here(monkeypatch, 'deployment/export.py', *arguments, '--input-size', 96, 130) == 2
    assert 'sides have to be multiples of 32; use --input-size 96 128' in capsys.readouterr().err
    assert run_here(monkeypatch, 'deployment/export.py', *arguments, '--input-size', 96, 128) == 0
    report = json.loads((out / 'report.json').read_text())
    assert report['metadata']['preprocessing']['resize'] == dict(mode='fit', scale=[128, 96], backend='pillow')
    assert report['agreement']['num_found'] == report['agreement']['num_detections'] > 10
    predictor = runtime.Predictor(out)
    assert [side.get_length() for side in predictor.model.model.inputs[0].partial_shape[1:]] == [3, 96, 128]
    # Wide and upright images fit, and are found as PyTorch finds them in the padded image.
    image = cv2.imread(str(folder / 'data/images/1.png'))
    for shape, size in (((64, 30), (96, 45)), ((20, 64), (40, 128))):
        assert predictor.input_size(image[: shape[0], : shape[1]]) == size
        assert predictor.model(*predictor.prepare([image[: shape[0], : shape[1]]]))['boxes'].size
    with pytest.raises(runtime.RuntimeInputError, match='images of 96x160 pixels do not fit into 96x128'):
        predictor.model(np.zeros((1, 3, 96, 160), np.float32), np.array([[96, 160]]))
    monkeypatch.chdir(tmp_path)
    arguments = (config, out, '--work-dir', tmp_path / 'test', '--device', 'cpu')
    assert run_here(monkeypatch, 'test.py', *arguments) == 0
    (scores,) = tmp_path.glob('test/*/*.json')
    assert 'coco/segm_mAP' in json.loads(scores.read_text())


def test_an_exported_model_is_loaded_once(folder, monkeypatch):
    config, loads = Config.fromfile(folder / 'tiny.py'), []

    def load(*args, **kwargs):
        loads.append(args)
        return load_predictor(*args, **kwargs)

    monkeypatch.setattr(exported_detector, 'load_predictor', load)
    exported_detector.use_exported_model(config, str(folder / 'onnx'))
    # A second detector is another one.
    for count in (1, 2):
        assert isinstance(MODELS.build(config.model), ExportedDetector) and len(loads) == count


def test_flipped_bytes_of_the_weights_are_noticed(folder, tmp_path):
    shutil.copytree(folder / 'onnx', tmp_path / 'copy')
    content = bytearray((tmp_path / 'copy/model.onnx').read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / 'copy/model.onnx').write_bytes(content)
    with pytest.raises(runtime.RuntimeInputError, match='model.onnx: is damaged, it is not the file of report.json'):
        runtime.load_model(tmp_path / 'copy')


@pytest.mark.parametrize('kind', ['own file', 'own folder', 'foreign report', 'changed', 'imported'])
def test_only_what_an_export_wrote_is_replaced(folder, tmp_path, kind):
    out = tmp_path / 'out'
    shutil.copytree(folder / 'onnx', out)
    if kind == 'own file':
        (out / 'notes.txt').write_text('mine')
    if kind == 'own folder':
        (out / 'notes').mkdir()
    if kind == 'foreign report':
        shutil.rmtree(out)
        out.mkdir()
        (out / 'report.json').write_text('{"files": {}}')
    if kind == 'changed':
        (out / 'runtime.py').write_text('mine')
    if kind == 'imported':
        (out / '__pycache__').mkdir()
        (out / '__pycache__/runtime.cpython-311.pyc').touch()
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob('*'))
    # What ends an export next.
    words = 'checkpoint' if kind == 'imported' else 'was not written by an export'
    with pytest.raises(InputError, match=words):
        config = Config.fromfile(folder / 'tiny.py')
        model_export.export(config, str(tmp_path / 'absent checkpoint.pth'), str(out), ExportSettings(num_images=0))
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob('*')) == before


@pytest.mark.parametrize('kind', ['nothing', 'colours', 'threshold', 'scores', 'not a number', 'surplus'])
def test_what_the_comparison_refuses(folder, detector, kind):
    predictor = load_predictor(str(folder / 'onnx'), num_threads=1)
    predictor.metadata = dict(predictor.metadata)
    precision, words = 'fp32', "the exported model disagrees with PyTorch's"
    if kind == 'nothing':
        precision, words = 'bf16', 'detects nothing that scores 0.3 on 2 images: nothing can be compared'
    if kind == 'colours':
        preprocessing = predictor.metadata['preprocessing']
        predictor.metadata['preprocessing'] = dict(preprocessing, bgr_to_rgb=not preprocessing['bgr_to_rgb'])
    if kind == 'threshold':
        predictor.metadata['mask_thr'] = 0.6
    batches = [*config_images(Config.fromfile(folder / 'tiny.py'), 2)]
    changed = copy.deepcopy(detector)
    if kind in ('scores', 'not a number', 'surplus'):
        # Scores of PyTorch's model and of the exported one.
        precision = 'bf16'
        torch.nn.init.constant_(changed.bbox_head.conv_cls.bias, 3.0)
        model, results = predictor.model, {}

        def run(images, sizes):
            outputs = results.setdefault(images.tobytes(), as_outputs(changed, images, sizes))
            if kind == 'scores':
                return dict(outputs, scores=outputs['scores'] - np.float32(0.4))
            if kind == 'not a number':
                return dict(outputs, mask_probs=outputs['mask_probs'] * np.float32('nan'))
            return {name: np.concatenate([value] * 3) for name, value in outputs.items()}

        run.metadata = model.metadata
        predictor.model = run
    elif kind == 'nothing':
        torch.nn.init.constant_(changed.bbox_head.conv_cls.bias, -20.0)
        predictor.model = partial(as_outputs, changed)
        predictor.model.metadata = predictor.metadata
    with pytest.raises(InputError, match=words):
        compare(changed, predictor, iter(batches), precision)


def as_outputs(detector: torch.nn.Module, images: np.ndarray, sizes: np.ndarray) -> dict:
    with torch.inference_mode():
        outputs = build_graph(detector)(torch.from_numpy(images), torch.from_numpy(sizes))
    return {name: value.numpy() for name, value in outputs._asdict().items()}


@pytest.mark.parametrize(
    ('key', 'value', 'words'),
    [
        ('test_dataloader.dataset.pipeline.0.color_type', 'color_ignore_orientation', 'loads images with color_type='),
        ('test_dataloader.dataset.pipeline.0.color_type', 'grayscale', 'loads images with color_type='),
        ('test_dataloader.dataset.pipeline.0.imdecode_backend', 'pillow', 'loads images with imdecode_backend='),
        ('test_dataloader.dataset.pipeline.0.to_float32', True, 'loads images with to_float32=True'),
        ('model.test_cfg.rcnn.mask_thr_binary', -1, 'mask_thr_binary is -1, which asks for probabilities'),
    ],
)
def test_a_setting_that_the_runtime_lacks_is_refused(folder, key, value, words):
    config = Config.fromfile(folder / 'tiny.py')
    config.merge_from_dict({key: value})
    with pytest.raises(InputError, match=words):
        describe(config, str(folder / 'tiny.pth'), 'onnx', 'fp32', len(CLASSES))


def test_deformable_convs_name_the_onnxruntime_that_they_need(folder, monkeypatch, tmp_path):
    config = Config.fromfile(folder / 'tiny.py')
    config.model.backbone.update(arch='tiny', dcn=dict(type='DCNv2', deform_groups=1))
    torch.save(dict(state_dict=MODELS.build(config.model).state_dict()), tmp_path / 'dcn.pth')
    written = []

    def write(self, graph, path, metadata, *_):
        written.append(metadata)
        path.touch()

    def load(*args, **kwargs):
        raise RuntimeError('NOT_IMPLEMENTED : Could not find an implementation for DeformConv(19) node')

    monkeypatch.setattr(OnnxFormat, 'write', write)
    monkeypatch.setattr('onnxruntime.InferenceSession', load)
    settings = ExportSettings(num_images=0)
    with pytest.raises(InputError, match='deformable convolutions on a CPU need onnxruntime 1.25'):
        model_export.export(config, str(tmp_path / 'dcn.pth'), str(tmp_path / 'out'), settings)
    assert written[0]['requires'] == dict(onnxruntime='1.25')


def test_channels_are_swapped_by_either_name(folder):
    config = Config.fromfile(folder / 'tiny.py')
    config.model.data_preprocessor.update(bgr_to_rgb=False, rgb_to_bgr=True)
    metadata = describe(config, str(folder / 'tiny.pth'), 'onnx', 'fp32', len(CLASSES))
    assert metadata['preprocessing']['bgr_to_rgb']


def test_a_config_may_import_its_classes(folder, tmp_path):
    path = shutil.copy(folder / 'tiny.py', tmp_path / 'tiny.py')
    import_classes(path)
    named, imported = (
        describe(Config.fromfile(config), str(folder / 'tiny.pth'), 'onnx', 'fp32', len(CLASSES))
        for config in (folder / 'tiny.py', path)
    )
    assert imported == named
    assert len(list(calibration_batches(Config.fromfile(path), 1)())) == 1


def test_the_layers_that_predict_proposals_and_a_stage_s_boxes_stay_in_float():
    graph = [
        *('image Parameter', 'backbone Conv image', 'proposals Conv backbone', 'decode Add proposals'),
        *('first NonMaxSuppression decode', 'pool RoiAlign backbone first', 'tower Gemm pool', 'boxes Gemm tower'),
        *('moved Add boxes first', 'pool2 RoiAlign backbone moved', 'tower2 Gemm pool2', 'boxes2 Gemm tower2'),
        *('last NonMaxSuppression boxes2', 'pool3 RoiAlign backbone last', 'mask Conv pool3'),
    ]
    operators = [Operator(name, kind, parents) for name, kind, *parents in map(str.split, graph)]
    kept = {'proposals', 'decode', 'first', 'boxes', 'moved', 'boxes2', 'last', 'pool3', 'mask'}
    assert set(_kept_in_float(operators)) == kept


def test_calibration_images_are_loaded_for_each_pass(folder):
    batches = calibration_batches(Config.fromfile(folder / 'tiny.py'), 3)
    first, second = batches(), batches()
    assert next(first)['inputs'][0].equal(next(second)['inputs'][0])
    assert len([*first]) == 2 and not isinstance(first, list)


def test_the_test_tool_evaluates_an_exported_model(folder, monkeypatch, tmp_path):
    arguments = (folder / 'tiny.py', folder / 'onnx/model.onnx', '--work-dir', tmp_path)
    monkeypatch.chdir(tmp_path)
    assert run_here(monkeypatch, 'test.py', *arguments) == 0
    (scores,) = tmp_path.glob('*/*.json')
    assert 'coco/segm_mAP' in json.loads(scores.read_text())


@pytest.mark.parametrize('options', [['--tta'], ['--amp'], ['--device', 'nowhere']])
def test_flags_that_do_not_apply_to_an_exported_model_are_refused(folder, monkeypatch, capsys, tmp_path, options):
    arguments = (folder / 'tiny.py', folder / 'onnx/model.onnx', '--work-dir', tmp_path, *options)
    assert run_here(monkeypatch, 'test.py', *arguments) == 2
    words = 'this onnxruntime has no nowhere' if 'nowhere' in options else 'is an exported model'
    assert words in capsys.readouterr().err


def test_exported_models_are_measured_beside_pytorch_s(folder, monkeypatch, capsys, tmp_path):
    arguments = (folder / 'tiny.py', folder / 'tiny.pth', folder / 'onnx/model.onnx', '--size', 60, 80, '--runs', 1)
    assert run_here(monkeypatch, 'deployment/benchmark.py', *arguments, '--out', tmp_path / 'speed.json') == 0
    assert re.search(r'\| PyTorch \| fp32 \|  \| [\d.]+ \| 1\.00 \|', capsys.readouterr().out)
    assert len(json.loads((tmp_path / 'speed.json').read_text())['seconds']) == 2


def test_exported_models_are_compared_in_speed_size_and_ap(folder, monkeypatch, capsys, tmp_path):
    model = folder / 'onnx'
    config = Config.fromfile(folder / 'tiny.py')
    # As the evaluator of several data sets, this one has a type.
    config.test_evaluator = dict(type='Evaluator', metrics=[config.test_evaluator])
    config.dump(tmp_path / 'typed.py')
    arguments = ('--checkpoints', folder / 'tiny.pth', '--exported', model, '--ap', '--runs', 1, '--out', tmp_path)
    path = 'analysis_tools/benchmark.py'
    monkeypatch.syspath_prepend(ROOT / 'tools/analysis_tools')
    monkeypatch.chdir(tmp_path)
    assert run_here(monkeypatch, path, tmp_path / 'typed.py', *arguments, '--device', 'cpu') == 0
    results = json.loads((tmp_path / 'benchmark.json').read_text())['exported']
    assert results['program_seconds'].keys() == {'PyTorch', str(model)}
    size = (model / 'model.onnx').stat().st_size / 1e6
    assert results['megabytes'] == {str(model): size}
    expected, found = (results['metrics'][name] for name in ('PyTorch', str(model)))
    assert expected['coco/segm_mAP_50'] == pytest.approx(found['coco/segm_mAP_50'], abs=0.01)
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(f'| {model} | fp32 |'))
    assert f'| {100 * found["coco/segm_mAP"]:.1f} |' in row and row.endswith(f'| {size:.1f} |')


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
    assert run_here(monkeypatch, 'deployment/export.py', *arguments) == 2
    assert '--calibration-images 0: at least 1 is needed' in capsys.readouterr().err


def test_the_file_has_standard_operators_only(folder):
    import onnx

    model = onnx.load(folder / 'onnx/model.onnx')
    assert {node.domain for node in model.graph.node} == {''} and not model.functions
    assert {'NonMaxSuppression', 'RoiAlign', 'TopK'} <= {node.op_type for node in model.graph.node}
    # No paths of this machine, and dimensions have names.
    assert str(ROOT).encode() not in (folder / 'onnx/model.onnx').read_bytes()
    assert not any(node.metadata_props for node in model.graph.node)
    shapes = {
        value.name: [side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes['images'] == ['batch', 3, 'height', 'width'] and shapes['image_sizes'] == ['batch', 2]
    assert shapes['mask_probs'] == ['detections', 28, 28]


@pytest.mark.parametrize(
    ('out', 'words'),
    [('data', 'annotations.json was not written by an export'), ('tiny.py/new', "tiny.py' is not a folder")],
)
def test_a_folder_that_cannot_be_written_or_is_no_export_is_refused(folder, monkeypatch, capsys, out, words):
    arguments = (folder / 'tiny.py', folder / 'tiny.pth', '--out', folder / out)
    assert run_here(monkeypatch, 'deployment/export.py', *arguments) == 2
    assert words in capsys.readouterr().err


def test_a_model_without_masks_is_refused(folder, monkeypatch, capsys, tmp_path):
    (tmp_path / 'boxes.py').write_text("_base_ = 'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py'\n")
    model = Config.fromfile(tmp_path / 'boxes.py').model
    model.backbone.init_cfg = None
    torch.save(dict(state_dict=MODELS.build(model).state_dict()), tmp_path / 'boxes.pth')
    arguments = (tmp_path / 'boxes.py', tmp_path / 'boxes.pth', '--out', tmp_path / 'out', '--images', 0)
    assert run_here(monkeypatch, 'deployment/export.py', *arguments) == 2
    assert (
        'FCOS cannot be exported: only CenterMask, PointCenterMask, two-stage detectors with a mask head, such as'
        in capsys.readouterr().err
    )
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
