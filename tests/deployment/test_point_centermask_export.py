"""CenterMask by points is exported to plain operators, and finds the same as PyTorch's model in every runtime."""

import json
import shutil
from pathlib import Path

import pytest
from mmengine.config import Config
from support.tiny_export import assert_same_detections, run_here
from support.tiny_points import fcos_points_model, write_points

from mmdet_sag.deployment.comparison import BOUNDS
from mmdet_sag.deployment.exported_detector import ExportedDetector
from mmdet_sag.deployment.formats import FORMATS, OnnxFormat
from mmdet_sag.deployment.graphs import build_graph
from mmdet_sag.deployment.graphs.padded_graph import PaddedGraph
from mmdet_sag.deployment.model_export import build_detector
from mmdet_sag.deployment.quantization import Operator, _kept_in_float

for package in ('onnx', 'onnxscript', 'onnxruntime', 'openvino'):
    pytest.importorskip(package, reason=f'exports need {package}')


def export(folder: Path, *arguments: object, **kwargs) -> Path:
    config, checkpoint = write_points(folder, **kwargs)
    options = ('--out', folder / 'onnx', '--images', 4, '--runs', 0, '--opset', 16, *arguments)
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert run_here(monkeypatch, 'deployment/export.py', config, checkpoint, *options) == 0
    return folder


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    return export(tmp_path_factory.mktemp('points'), '--detections', 10)


@pytest.fixture(scope='module')
def fcos_folder(tmp_path_factory) -> Path:
    return export(tmp_path_factory.mktemp('points-fcos'), model=fcos_points_model)


def test_the_file_has_plain_operators_and_outputs_of_fixed_size(folder):
    import onnx

    model = onnx.load(folder / 'onnx/model.onnx')
    operators = {node.op_type for node in model.graph.node}
    assert not operators & {'RoiAlign', 'NonMaxSuppression', 'NonZero', 'DeformConv', 'Loop', 'If'}
    assert {'GridSample', 'MaxPool', 'TopK', 'Resize'} <= operators
    assert [entry.version for entry in model.opset_import if not entry.domain] == [16]
    shapes = {o.name: [d.dim_value or d.dim_param for d in o.type.tensor_type.shape.dim] for o in model.graph.output}
    assert shapes['mask_probs'] == ['batch', 10, 32, 32]


def test_beside_fcos_the_file_has_nms_and_detections_of_any_number(fcos_folder):
    import onnx

    model = onnx.load(fcos_folder / 'onnx/model.onnx')
    operators = {node.op_type for node in model.graph.node}
    assert not operators & {'RoiAlign', 'DeformConv', 'Loop', 'If'}
    assert {'GridSample', 'NonMaxSuppression'} <= operators
    shapes = {o.name: [d.dim_value or d.dim_param for d in o.type.tensor_type.shape.dim] for o in model.graph.output}
    assert shapes['mask_probs'] == ['detections', 32, 32]


@pytest.mark.parametrize('name', ['folder', 'fcos_folder'])
def test_it_is_as_close_as_other_models(name, request):
    report = json.loads((request.getfixturevalue(name) / 'onnx/report.json').read_text())
    agreement = report['agreement']
    assert agreement['num_found'] == agreement['num_detections'] > 20
    assert all(agreement[name] <= bound for name, bound in BOUNDS.items())
    assert report['metadata']['model'] == 'PointCenterMask'
    assert not report['metadata']['has_mask_scores']


@pytest.mark.parametrize('model', ['folder', 'fcos_folder'])
@pytest.mark.parametrize('name', ['onnx', 'openvino', 'torchscript'])
def test_every_runtime_finds_the_masks_of_the_detector(model, name, tmp_path, monkeypatch, request):
    folder = request.getfixturevalue(model)
    config = Config.fromfile(folder / 'tiny.py')
    path = folder / 'onnx/model.onnx'
    metadata = json.loads((folder / 'onnx/report.json').read_text())['metadata']
    config.model.test_cfg.max_per_img = metadata['max_per_img']
    detector = build_detector(config, str(folder / 'tiny.pth'))
    if name != 'onnx':
        # The same export is not run twice.
        onnx_path = path
        monkeypatch.setattr(OnnxFormat, 'write', lambda self, graph, path, *_: shutil.copy(onnx_path, path))
        path = tmp_path / f'model{FORMATS[name].suffix}'
        graph = build_graph(detector)
        graph = PaddedGraph(graph, metadata['detections']) if 'detections' in metadata else graph
        FORMATS[name].write(graph, path, dict(metadata, format=name))
    exported = ExportedDetector(str(path), config.model.data_preprocessor, num_threads=1)
    assert_same_detections(detector, exported, config, 'scores')


def test_int8_leaves_the_last_layers_and_the_masks_in_float():
    operators = [
        Operator('images', 'Parameter', []),
        Operator('backbone', 'Conv', ['images']),
        Operator('heatmap hidden', 'Conv', ['backbone']),
        Operator('heatmap', 'Conv', ['heatmap hidden']),
        Operator('sigmoid', 'Sigmoid', ['heatmap']),
        Operator('wh hidden', 'Conv', ['backbone']),
        Operator('wh', 'Conv', ['wh hidden']),
        Operator('peaks', 'TopK', ['sigmoid']),
        Operator('sizes', 'GatherElements', ['wh', 'peaks']),
        Operator('again', 'TopK', ['peaks']),
    ]
    assert _kept_in_float(operators) == ['again', 'heatmap', 'peaks', 'sigmoid', 'sizes', 'wh']
