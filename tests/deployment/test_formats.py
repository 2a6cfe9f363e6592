"""Every format writes and loads models that compute the same as the graph that was exported."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from support.tiny import CONFIG
from support.tiny_box_heads import HEADS, lively
from support.tiny_export import FEW_LAYERS, lively_tiny, lively_two_stage
from torch import nn

from mmdet_sag.deployment.comparison import BOUNDS
from mmdet_sag.deployment.formats import FORMATS, OnnxFormat, is_exported, load_predictor
from mmdet_sag.deployment.graphs import build_graph
from mmdet_sag.deployment.graphs.padded_graph import PaddedGraph
from mmdet_sag.deployment.onnx_operators import lower_opset
from mmdet_sag.deployment.runtime import RUNTIME_VERSION
from mmdet_sag.errors import InputError

for package in ('onnx', 'onnxscript', 'onnxruntime', 'openvino'):
    pytest.importorskip(package, reason=f'exports need {package}')

FIRST = Path(__file__).parents[2] / 'configs/centermask_first/centermask-first-lite_v19_fpn_ms-4x_coco.py'
METADATA = dict(runtime_version=RUNTIME_VERSION, precision='fp32', classes=['a', 'b', 'c'])
SIZES = ((2, 96, 128), (1, 192, 160))
FEW = {**FEW_LAYERS, 'neck.num_outs': 3, 'bbox_head.strides': [8, 16, 32]}
DCN = {**FEW, 'backbone.arch': 'tiny', 'backbone.dcn': dict(type='DCNv2', deform_groups=1)}
DCN.update({f'{head}.num_classes': 1 for head in ('bbox_head', 'roi_head.mask_head', 'roi_head.mask_iou_head')})
CLASS_AGNOSTIC = {**FEW, 'roi_head.mask_head.class_agnostic': True, 'roi_head.mask_iou_head': None}


@pytest.mark.parametrize(
    ('name', 'detections', 'opset'),
    [
        # Of any size. It is written for what needs fixed outputs and an early opset.
        ('mask-rcnn', 4, 16),
        # The others are of one size, which is written faster. That of DetectoRS is an HTC.
        *((name, None, 20) for name in ('cascade-mask-rcnn', 'detectors', 'scnet', 'groie', 'ms-rcnn')),
        ('dcn, one class', None, 20),
        ('first, class-agnostic', None, 16),
        # Their box heads, with CenterMask's mask branch.
        ('RTMDet', None, 20),
        ('YOLOX', None, 20),
    ],
    ids=lambda value: value if isinstance(value, str) else '',
)
def test_a_written_model_computes_the_same_as_its_graph(name, detections, opset, tmp_path, monkeypatch):
    init_default_scope('mmdet')
    centermasks = {'dcn, one class': (CONFIG, DCN), 'first, class-agnostic': (FIRST, CLASS_AGNOSTIC)}
    if name in centermasks:
        path, options = centermasks[name]
        graph = build_graph(lively_tiny(path, **options))
    elif name in HEADS:
        graph = build_graph(lively(HEADS[name]))
    else:
        graph = build_graph(lively_two_stage(name))
    fixed = dict(detections=detections) if detections else dict(input_size=SIZES[0][1:])
    metadata = dict(METADATA, opset=opset, **fixed)
    written = PaddedGraph(graph, detections) if detections else graph
    FORMATS['onnx'].write(written, tmp_path / 'model.onnx', metadata)
    # The same export is not run twice.
    monkeypatch.setattr(OnnxFormat, 'write', lambda self, graph, path, *_: shutil.copy(tmp_path / 'model.onnx', path))
    for other in ('openvino', 'torchscript'):
        FORMATS[other].write(written, tmp_path / f'model{FORMATS[other].suffix}', metadata)
    files = ('model.onnx', 'model.xml', 'model.pt')
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*files, 'model.bin'])
    assert all(is_exported(str(tmp_path / file)) for file in files) and is_exported(str(tmp_path))
    models = {file: load_predictor(str(tmp_path / file), num_threads=1).model for file in files}
    # Its tensors are made on the device of its inputs.
    assert 'value="cpu"' not in str(torch.jit.load(tmp_path / 'model.pt').inlined_graph)
    generator = np.random.default_rng(1)
    for count, height, width in SIZES if detections else SIZES[:1]:
        images = generator.normal(0, 30 if name in centermasks else 1, (count, 3, height, width)).astype(np.float32)
        sizes = np.array([[height - 6, width - 3]] * count)
        with torch.inference_mode():
            expected = graph(torch.from_numpy(images), torch.from_numpy(sizes))._asdict()
        assert len(expected['boxes']) > 2
        image = expected['image_indices']
        rank = torch.arange(len(image)) - torch.searchsorted(image, image)
        for file, model in models.items():
            outputs = model(images, sizes)
            for key, value in expected.items():
                value = value[rank < (detections or len(rank))].numpy()
                bound = BOUNDS.get(key, BOUNDS['scores'])
                np.testing.assert_allclose(outputs[key], value, atol=bound, rtol=0, err_msg=f'{file} {key}')
    for file, model in models.items() if detections else ():
        calls = [(images[..., : 32 * (3 + i % 3)], sizes - i) for i in range(20)]
        alone = [model(*call) for call in calls]
        with ThreadPoolExecutor(16) as threads:
            for one, other in zip(alone, threads.map(lambda call, model=model: model(*call), calls)):
                for key, value in one.items():
                    np.testing.assert_array_equal(other[key], value, err_msg=f'{file} {key}')


def test_an_export_computes_the_logits_of_one_class_per_mask():
    # Its box head shares convs between levels: PyTorch then puts modules into classes of its own.
    graph = build_graph(lively(HEADS['RTMDet']))
    example = torch.zeros(1, 3, *SIZES[0][1:]), torch.tensor([SIZES[0][1:]])
    with torch.no_grad():
        program = torch.export.export(graph, example, strict=False)
    names = {name: key for name, key in program.graph_signature.inputs_to_parameters.items() if 'conv_logits' in key}
    users = [str(user.target) for node in program.graph.nodes if node.name in names for user in node.users]
    assert len(names) == 2 and set(users) == {'aten.index.Tensor'}


def test_an_operator_that_an_opset_lacks_is_named():
    from onnx import TensorProto, helper

    node = helper.make_node('DeformConv', ['x', 'w', 'o'], ['y'])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in 'xwoy']
    graph = helper.make_graph([node], 'graph', values[:3], values[3:])
    with pytest.raises(InputError, match='ONNX has no DeformConv in opset 16, which this model needs: use --opset 20'):
        lower_opset(helper.make_model(graph, opset_imports=[helper.make_opsetid('', 20)]), 16)


def test_an_operator_that_cannot_be_written_is_named(tmp_path):
    class Inverse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.detector = nn.Identity()

        def forward(self, images: torch.Tensor, image_sizes: torch.Tensor) -> torch.Tensor:
            return torch.linalg.pinv(images)

    with pytest.raises(InputError, match='Identity cannot be exported: .*linalg_pinv') as error:
        FORMATS['onnx'].write(Inverse(), tmp_path / 'model.onnx', METADATA)
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
