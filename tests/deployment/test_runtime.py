"""The runtime's own image operations equal those of the libraries that it replaces."""

import ast
import json
import subprocess
import sys
import tracemalloc
from pathlib import Path
from unittest.mock import Mock

import cv2
import mmcv
import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
import torch.nn.functional as F
from support.small_graph import write_onnx, write_openvino

from mmdet_sag.datasets.transforms import FitResize, ShortSideResize
from mmdet_sag.deployment import runtime
from mmdet_sag.structures.mask import paste_masks_as_rle


def test_it_imports_only_numpy_opencv_and_a_runtime():
    tree = ast.parse(Path(runtime.__file__).read_text())
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not any(node.level for node in froms)
    packages = {name.partition('.')[0] for name in (*names, *(node.module for node in froms))}
    assert packages - sys.stdlib_module_names == {'numpy', 'cv2', 'onnxruntime', 'openvino', 'torch', 'torchvision'}


def test_images_are_resized_like_pillow_does():
    generator = np.random.default_rng(0)
    for height, width, scale in ((48, 64, 1.25), (75, 61, 0.5), (60, 90, 0.31), (33, 20, 3.0), (40, 40, 1.0)):
        image = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        size = int(width * scale + 0.5), int(height * scale + 0.5)
        expected = mmcv.imresize(image, size, backend='pillow')
        np.testing.assert_array_equal(runtime._resize_like_pillow(image, *size), expected)


@pytest.mark.parametrize('shape', [(480, 640), (427, 640), (640, 360), (100, 900)])
def test_images_are_resized_to_the_same_size_as_by_the_pipelines(shape):
    settings = dict(mode='keep_ratio', scale=[1333, 800])
    expected, _ = mmcv.imrescale(np.zeros((*shape, 3), np.uint8), (1333, 800), return_scale=True)
    assert runtime.resized_size(*shape[::-1], settings) == expected.shape[1::-1]
    transform = ShortSideResize(scale=(1333, 800))
    expected = transform(dict(img=np.zeros((*shape, 3), np.uint8)))['img']
    assert runtime.resized_size(*shape[::-1], dict(settings, mode='short_side')) == expected.shape[1::-1]
    expected = FitResize(scale=(640, 320))(dict(img=np.zeros((*shape, 3), np.uint8)))['img'].shape[1::-1]
    assert runtime.resized_size(*shape[::-1], dict(mode='fit', scale=[640, 320])) == expected
    assert expected[0] == 640 or expected[1] == 320
    assert expected[0] <= 640 and expected[1] <= 320


def test_masks_are_pasted_and_encoded_bit_by_bit():
    generator = torch.Generator().manual_seed(0)
    probs = F.interpolate(torch.randn(40, 1, 5, 5, generator=generator) * 4, (28, 28), mode='bicubic')[:, 0].sigmoid()
    corners = torch.rand(40, 2, generator=generator) * 200 - 20
    boxes = torch.cat([corners, corners + torch.rand(40, 2, generator=generator) ** 2 * 200], dim=1)
    # Without an extent, off the image, and as large as the image, of which every pixel belongs to the mask.
    boxes[:3] = torch.tensor([[5, 5, 5, 9.0], [500, 3, 520, 9], [0, 0, 150, 120]])
    probs[2] = 1
    expected = paste_masks_as_rle(probs, boxes, 120, 150)
    for prob, box, mask in zip(probs.numpy(), boxes.numpy(), expected):
        found = runtime.encode_mask(prob, box, 120, 150, 0.5)
        assert found['counts'] == mask['counts'].decode()
        bitmap = mask_utils.decode(dict(size=[120, 150], counts=found['counts'].encode()))
        np.testing.assert_array_equal(runtime.decode_mask(found), bitmap.astype(bool))
        left, top, part = runtime._decode_cropped(found)
        rows, columns = bitmap.any(axis=1).nonzero()[0], bitmap.any(axis=0).nonzero()[0]
        assert part.shape == ((0, 0) if not len(rows) else (rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1))
        np.testing.assert_array_equal(part, bitmap[top : top + part.shape[0], left : left + part.shape[1]])
    json.dumps(found)


def test_masks_are_drawn_inside_their_boxes_only():
    height, width = 3000, 4000
    predictor = runtime.Predictor.__new__(runtime.Predictor)
    predictor.metadata = dict(classes=['a'], palette=[[255, 0, 0]])
    corners = np.random.default_rng(0).integers(40, (width - 120, height - 100), (50, 2))
    boxes = np.concatenate([corners, corners + (110, 90)], axis=1).astype(np.float32)
    mask = np.ones((28, 28), np.float32)
    masks = [runtime.encode_mask(mask, box, height, width, 0.5) for box in boxes]
    result = dict(boxes=boxes, scores=np.ones(50), labels=np.zeros(50, np.int64), masks=masks)
    image = np.zeros((height, width, 3), np.uint8)
    tracemalloc.start()
    picture = predictor.draw(image, result, 0.5)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The picture, but no bitmap of its size.
    assert peak < picture.nbytes + height * width / 4
    changed = picture.any(axis=2)
    for x1, y1, x2, y2 in boxes.astype(int):
        assert changed[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].all()
    for x1, y1, x2, y2 in boxes.astype(int):
        # With the name above the box.
        changed[y1 - 30 : y2, x1 - 2 : x2] = False
    assert not changed.any()


def test_arrays_are_images_or_refused_in_one_line():
    colour = np.random.default_rng(0).integers(0, 256, (4, 5, 4), dtype=np.uint8)
    grey = np.repeat(colour[..., :1], 3, axis=2)
    for given, expected in (
        (colour, colour[..., :3]),
        (colour[..., :3].tolist(), None),
        (colour[..., 0], grey),
        (colour[..., :1], grey),
        (colour[..., :2], None),
        (colour.astype(np.float32), None),
        (colour.astype(np.uint16), None),
        (colour[:0], None),
    ):
        if expected is not None:
            np.testing.assert_array_equal(runtime.as_image(given), expected)
            continue
        with pytest.raises(runtime.RuntimeInputError, match='is no image: give uint8') as error:
            runtime.as_image(given)
        assert '\n' not in str(error.value)


def test_results_may_go_to_a_folder_that_holds_that_of_the_images(tmp_path, monkeypatch):
    pytest.importorskip('onnxruntime')
    write_onnx(tmp_path / 'exported')
    (tmp_path / 'pictures').mkdir()
    cv2.imwrite(str(tmp_path / 'pictures/a.png'), np.zeros((80, 80, 3), np.uint8))
    monkeypatch.chdir(tmp_path)
    assert runtime.run(['exported', 'pictures', '--out', '.']) == 0
    assert (tmp_path / 'a.png.png').is_file()


def test_after_ctrl_c_there_are_the_results_of_the_images_up_to_there(tmp_path, monkeypatch):
    pytest.importorskip('onnxruntime')
    write_onnx(tmp_path / 'exported')
    (tmp_path / 'pictures').mkdir()
    for name in 'ab':
        cv2.imwrite(str(tmp_path / f'pictures/{name}.png'), np.zeros((80, 80, 3), np.uint8))
    read = runtime.read_image
    monkeypatch.setattr(runtime, 'read_image', Mock(side_effect=[read(tmp_path / 'pictures/a.png'), KeyboardInterrupt]))
    assert runtime.run([str(tmp_path / 'exported'), str(tmp_path / 'pictures'), '--out', str(tmp_path / 'out')]) == 130
    assert json.loads((tmp_path / 'out/results.json').read_text()).keys() == {'a.png'}


def test_a_negative_number_of_threads_is_refused_and_blames_no_file(capsys):
    with pytest.raises(SystemExit):
        runtime.run(['exported', 'pictures', '--threads', '-1'])
    assert '--threads -1: give their number, or 0 for one per core' in capsys.readouterr().err


def test_a_device_whose_libraries_are_missing_is_not_replaced_by_the_cpu(monkeypatch, tmp_path):
    onnxruntime = pytest.importorskip('onnxruntime')
    available = ['CUDAExecutionProvider', 'CPUExecutionProvider']
    monkeypatch.setattr(onnxruntime, 'get_available_providers', lambda: available)
    # What onnxruntime-gpu does where CUDA cannot be loaded: it logs that, and takes the CPU.
    session = type('Session', (), dict(get_providers=lambda self: available[1:]))
    monkeypatch.setattr(onnxruntime, 'InferenceSession', lambda *args, **kwargs: session())
    (tmp_path / 'model.onnx').touch()
    with pytest.raises(runtime.RuntimeInputError, match='device gpu: onnxruntime cannot load CUDAExecutionProvider'):
        runtime.load_model(tmp_path, device='gpu')


@pytest.mark.parametrize(
    ('precision', 'capabilities', 'hint'),
    [
        ('bf16', ['FP32', 'BF16'], 'bf16'),
        ('bf16', ['FP32', 'INT8'], 'f32'),
        ('fp16', ['FP32', 'FP16'], 'f16'),
        ('int8', ['FP32', 'INT8', 'BF16'], 'bf16'),
        ('int8', ['FP32', 'INT8'], 'f32'),
    ],
)
def test_layers_compute_in_half_precision_where_the_device_has_it(precision, capabilities, hint, monkeypatch, tmp_path):
    pytest.importorskip('openvino')
    write_openvino(tmp_path / 'model', precision=precision)
    core = Mock(wraps=runtime._core(), available_devices=['CPU'], compile_model=Mock())
    core.get_property.side_effect = lambda device, name: capabilities
    monkeypatch.setattr(runtime, '_core', lambda: core)
    runtime.load_model(tmp_path / 'model/model.xml')
    assert core.compile_model.call_args.args[2]['INFERENCE_PRECISION_HINT'] == hint


def test_signals_reach_their_handler_after_models_of_openvino_are_gone(tmp_path):
    pytest.importorskip('openvino')
    write_openvino(tmp_path / 'model')
    # Each of OpenVINO's cores gives the thread a stack for signals; of two, the second to go leaves that of the first.
    code = """
import gc, os, signal
from runtime import Predictor
signal.signal(signal.SIGTERM, lambda *_: print('handled'))
first, second = Predictor('model.xml'), Predictor('model.xml', num_threads=1)
del first
gc.collect()
del second
gc.collect()
os.kill(os.getpid(), signal.SIGTERM)
"""
    process = subprocess.run(
        [sys.executable, '-c', code], cwd=tmp_path / 'model', capture_output=True, text=True, timeout=120
    )
    assert process.stdout == 'handled\n', process.stderr
    assert process.returncode == 0
