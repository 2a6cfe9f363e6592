"""Files of every kind of detector give what its graph gives, in every runtime."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from support.tiny_export import lively_tiny, lively_two_stage

from mmdet_sag.deployment.comparison import BOUNDS
from mmdet_sag.deployment.exported_detector import load_exported
from mmdet_sag.deployment.formats import build_graph, write_onnx, write_openvino, write_torchscript
from mmdet_sag.deployment.runtime import RUNTIME_VERSION
from mmdet_sag.errors import InputError

for package in ('onnx', 'onnxscript', 'onnxruntime', 'openvino'):
    pytest.importorskip(package, reason=f'exports need {package}')

DCN = {'backbone.arch': 'V-19-slim', 'backbone.dcn': dict(type='DCNv2', deform_groups=1)}
METADATA = dict(runtime_version=RUNTIME_VERSION, precision='fp32', classes=['a', 'b', 'c'])


def outputs_of(path: Path, images: np.ndarray, sizes: np.ndarray) -> dict:
    return load_exported(str(path), num_threads=1)(images, sizes)


@pytest.mark.parametrize('name', ['mask-rcnn', 'dcn'])
def test_written_and_read_again_it_finds_the_same(name, tmp_path):
    init_default_scope('mmdet')
    detector = lively_tiny(**DCN) if name == 'dcn' else lively_two_stage(name)
    graph = build_graph(detector)
    write_onnx(graph, tmp_path / 'model.onnx', METADATA)
    write_openvino(tmp_path / 'model.onnx', tmp_path / 'model.xml', METADATA)
    write_torchscript(graph, tmp_path / 'model.pt', METADATA)
    generator = np.random.default_rng(1)
    for count, height, width in ((2, 96, 128), (1, 192, 160)):
        images = generator.normal(0, 30 if name == 'dcn' else 1, (count, 3, height, width)).astype(np.float32)
        sizes = np.array([[height - 6, width - 3]] * count)
        with torch.inference_mode():
            expected = graph(torch.from_numpy(images), torch.from_numpy(sizes))._asdict()
        assert len(expected['boxes']) > 2
        # OpenVINO does not read ONNX's deformable convs; what is written for it has its own.
        for file in ('model.onnx', 'model.xml', 'model.pt'):
            outputs = outputs_of(tmp_path / file, images, sizes)
            for key, value in expected.items():
                bound = BOUNDS.get(key, BOUNDS['scores'])
                np.testing.assert_allclose(outputs[key], value.numpy(), atol=bound, rtol=0, err_msg=f'{file} {key}')


def test_an_operator_that_cannot_be_written_is_named(tmp_path):
    init_default_scope('mmdet')
    detector = lively_tiny()
    forward = detector.neck.forward

    def with_an_inverse(inputs: tuple) -> tuple:
        first, *others = forward(inputs)
        return (torch.linalg.pinv(first), *others)

    detector.neck.forward = with_an_inverse
    with pytest.raises(InputError, match='CenterMask cannot be exported: .*linalg_pinv') as error:
        write_onnx(build_graph(detector), tmp_path / 'model.onnx', METADATA)
    assert '\n' not in str(error.value)
    assert not (tmp_path / 'model.onnx').exists()
