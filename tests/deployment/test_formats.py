"""Every format writes and loads models that compute the same as the graph that was exported."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from support.tiny_export import lively_tiny, lively_two_stage

from mmdet_sag.deployment.comparison import BOUNDS
from mmdet_sag.deployment.formats import FORMATS, OnnxFormat, is_exported, load_predictor
from mmdet_sag.deployment.graphs import build_graph
from mmdet_sag.deployment.graphs.padded_graph import PaddedGraph
from mmdet_sag.deployment.onnx_operators import lower_opset
from mmdet_sag.deployment.runtime import RUNTIME_VERSION
from mmdet_sag.errors import InputError

for package in ('onnx', 'onnxscript', 'onnxruntime', 'openvino'):
    pytest.importorskip(package, reason=f'exports need {package}')

DCN = {'backbone.arch': 'V-19-slim', 'backbone.dcn': dict(type='DCNv2', deform_groups=1)}
METADATA = dict(runtime_version=RUNTIME_VERSION, precision='fp32', classes=['a', 'b', 'c'])


@pytest.mark.parametrize('name', ['mask-rcnn', 'dcn'])
def test_a_written_model_computes_the_same_as_its_graph(name, tmp_path, monkeypatch):
    init_default_scope('mmdet')
    detector = lively_tiny(**DCN) if name == 'dcn' else lively_two_stage(name)
    graph, metadata = build_graph(detector), METADATA
    # The other model is written for what needs fixed outputs and an early opset.
    if name == 'mask-rcnn':
        metadata = dict(METADATA, detections=4, opset=16)
    written = PaddedGraph(graph, 4) if name == 'mask-rcnn' else graph
    FORMATS['onnx'].write(written, tmp_path / 'model.onnx', metadata)
    # The same export is not run twice.
    monkeypatch.setattr(OnnxFormat, 'write', lambda self, graph, path, *_: shutil.copy(tmp_path / 'model.onnx', path))
    for other in ('openvino', 'torchscript'):
        FORMATS[other].write(written, tmp_path / f'model{FORMATS[other].suffix}', metadata)
    files = ('model.onnx', 'model.xml', 'model.pt')
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*files, 'model.bin'])
    assert all(is_exported(str(tmp_path / file)) for file in files)
    models = {file: load_predictor(str(tmp_path / file), num_threads=1).model for file in files}
    # Its tensors are made on the device of its inputs.
    assert 'value="cpu"' not in str(torch.jit.load(tmp_path / 'model.pt').inlined_graph)
    generator = np.random.default_rng(1)
    for count, height, width in ((2, 96, 128), (1, 192, 160)):
        images = generator.normal(0, 30 if name == 'dcn' else 1, (count, 3, height, width)).astype(np.float32)
        sizes = np.array([[height - 6, width - 3]] * count)
        with torch.inference_mode():
            expected = graph(torch.from_numpy(images), torch.from_numpy(sizes))._asdict()
        assert len(expected['boxes']) > 2
        image = expected['image_indices']
        rank = torch.arange(len(image)) - torch.searchsorted(image, image)
        for file, model in models.items():
            outputs = model(images, sizes)
            for key, value in expected.items():
                if name == 'mask-rcnn':
                    value = value[rank < 4]
                bound = BOUNDS.get(key, BOUNDS['scores'])
                np.testing.assert_allclose(outputs[key], value.numpy(), atol=bound, rtol=0, err_msg=f'{file} {key}')
    for file, model in models.items():
        calls = [(images[..., : 32 * (3 + i % 3)], sizes - i) for i in range(12)]
        alone = [model(*call) for call in calls]
        with ThreadPoolExecutor(4) as threads:
            for one, other in zip(alone, threads.map(lambda call, model=model: model(*call), calls)):
                for key, value in one.items():
                    np.testing.assert_array_equal(other[key], value, err_msg=f'{file} {key}')


@pytest.mark.parametrize('name', ['scnet', 'groie', 'ms-rcnn'])
def test_other_hosts_go_to_torchscript(name, tmp_path):
    graph = build_graph(lively_two_stage(name))
    FORMATS['torchscript'].write(graph, tmp_path / 'model.pt', METADATA)
    images = np.random.default_rng(1).normal(0, 1, (1, 3, 96, 128)).astype(np.float32)
    sizes = np.array([[90, 120]])
    with torch.inference_mode():
        expected = graph(torch.from_numpy(images), torch.from_numpy(sizes))._asdict()
    assert len(expected['boxes']) > 1
    for key, value in load_predictor(str(tmp_path / 'model.pt')).model(images, sizes).items():
        np.testing.assert_allclose(value, expected[key].numpy(), atol=BOUNDS.get(key, BOUNDS['scores']), rtol=0)


def test_an_operator_that_an_opset_lacks_is_named():
    from onnx import TensorProto, helper

    node = helper.make_node('DeformConv', ['x', 'w', 'o'], ['y'])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in 'xwoy']
    graph = helper.make_graph([node], 'graph', values[:3], values[3:])
    with pytest.raises(InputError, match='ONNX has no DeformConv in opset 16, which this model needs: use --opset 20'):
        lower_opset(helper.make_model(graph, opset_imports=[helper.make_opsetid('', 20)]), 16)


def test_an_operator_that_cannot_be_written_is_named(tmp_path):
    init_default_scope('mmdet')
    detector = lively_tiny()
    forward = detector.neck.forward

    def with_an_inverse(inputs: tuple) -> tuple:
        first, *others = forward(inputs)
        return (torch.linalg.pinv(first), *others)

    detector.neck.forward = with_an_inverse
    with pytest.raises(InputError, match='CenterMask cannot be exported: .*linalg_pinv') as error:
        FORMATS['onnx'].write(build_graph(detector), tmp_path / 'model.onnx', METADATA)
    assert '\n' not in str(error.value)
    assert not (tmp_path / 'model.onnx').exists()


def test_a_checkpoint_is_not_an_exported_model(tmp_path):
    for name in ('weights.pth', 'weights.pt'):
        torch.save(dict(state_dict={}), tmp_path / name)
        assert not is_exported(str(tmp_path / name))
    assert is_exported('absent.onnx') and not is_exported('absent.pt')


def test_a_precision_that_a_format_lacks_is_refused():
    with pytest.raises(InputError, match='torchscript models have fp32, fp16, bf16; use --format onnx or openvino'):
        FORMATS['torchscript'].check('int8')


def test_a_missing_package_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setattr(FORMATS['torchscript'], 'packages', ('absent_package',), raising=False)
    with pytest.raises(InputError, match='torchscript --precision fp32 needs absent_package: pip install '):
        FORMATS['torchscript'].check('fp32')


@pytest.mark.parametrize('name', FORMATS)
def test_a_damaged_model_is_refused_in_one_line(name, tmp_path):
    path = tmp_path / f'model{FORMATS[name].suffix}'
    for file in (path, path.with_suffix('.bin')):
        file.write_bytes(b'damaged')
    with pytest.raises(InputError, match='is damaged, or ') as error:
        load_predictor(str(path))
    assert '\n' not in str(error.value)
