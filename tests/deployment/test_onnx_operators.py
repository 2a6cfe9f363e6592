"""Operators with a translation of their own compute the same in every runtime as in PyTorch."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from mmcv.ops import DeformConv2dPack, ModulatedDeformConv2dPack, SAConv2d
from mmdet.registry import MODELS
from torch import nn

from mmdet_sag.deployment import onnx_operators
from mmdet_sag.deployment.onnx_operators import (
    OPSET_VERSION,
    ExportableDeformConv,
    ExportableRoIExtractor,
    ExportableSAConv,
    non_max_suppression,
    onnx_translations,
    read_with_openvino,
)

for package in ('onnx', 'onnxscript', 'onnxruntime', 'openvino'):
    pytest.importorskip(package, reason=f'exports need {package}')


def in_runtimes(module: nn.Module, inputs: tuple, dynamic: tuple | None, folder: Path) -> list[np.ndarray]:
    """Outputs of a module's ONNX file in onnxruntime, and in OpenVINO after it was saved in OpenVINO's format."""
    import onnxruntime
    import openvino

    path = str(folder / 'operator.onnx')
    with torch.no_grad():
        program = torch.export.export(module.eval(), inputs, dynamic_shapes=dynamic, strict=False)
        table = onnx_translations()
        written = torch.onnx.export(
            program, dynamo=True, opset_version=OPSET_VERSION, custom_translation_table=table, verbose=False
        )
    written.save(path)
    arrays = [value.numpy() for value in inputs]
    session = onnxruntime.InferenceSession(path)
    first = session.run(None, {value.name: array for value, array in zip(session.get_inputs(), arrays)})[0]
    openvino.save_model(read_with_openvino(Path(path)), f'{path}.xml', compress_to_fp16=False)
    model = openvino.Core().compile_model(f'{path}.xml', 'CPU', dict(INFERENCE_PRECISION_HINT='f32'))
    return [first, model(arrays)[0]]


@pytest.mark.parametrize(
    ('layer', 'options'),
    [(DeformConv2dPack, {}), (ModulatedDeformConv2dPack, {}), (ModulatedDeformConv2dPack, dict(bias=False))],
    ids=['DCN', 'DCNv2', 'DCNv2 without bias'],
)
def test_deformable_convolution(layer: Callable, options: dict, tmp_path):
    torch.manual_seed(0)
    conv = layer(8, 6, 3, stride=2, padding=1, deform_groups=2, **options)
    nn.init.normal_(conv.conv_offset.weight, std=0.3)
    if getattr(conv, 'bias', None) is not None:
        nn.init.normal_(conv.bias)
    x = torch.randn(2, 8, 12, 15)
    expected = conv(x).detach().numpy()
    for found in in_runtimes(ExportableDeformConv(conv), (x,), None, tmp_path):
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_switchable_atrous_convolution(tmp_path):
    torch.manual_seed(0)
    conv = SAConv2d(8, 6, 3, stride=2, padding=1, bias=False, use_deform=True)
    for part in (conv.switch, conv.pre_context, conv.post_context, conv.offset_s, conv.offset_l):
        nn.init.normal_(part.weight, std=0.3)
    nn.init.normal_(conv.weight_diff, std=0.1)
    x = torch.randn(2, 8, 12, 15)
    expected = conv(x).detach().numpy()
    for found in in_runtimes(ExportableSAConv(conv), (x,), None, tmp_path):
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize('aligned', [True, False])
def test_roi_features_of_each_level_s_own_rois(aligned, tmp_path):
    torch.manual_seed(0)
    extractor = MODELS.build(
        dict(
            type='SingleRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=5, sampling_ratio=0 if aligned else 2, aligned=aligned),
            out_channels=4,
            featmap_strides=[4, 8, 16],
        )
    )
    feats = [torch.randn(2, 4, 64 // scale, 96 // scale) for scale in (1, 2, 4)]
    corners = torch.rand(30, 2) * 200
    sides = torch.rand(30, 2) ** 2 * 350 + 1
    rois = torch.cat([torch.arange(30)[:, None] % 2, corners, corners + sides], dim=1)
    assert len(extractor.map_roi_levels(rois, 3).unique()) == 3
    expected = extractor(feats, rois).numpy()

    class Extract(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.extractor = ExportableRoIExtractor(extractor)

        def forward(self, fine, middle, coarse, rois):
            return self.extractor((fine, middle, coarse), rois)

    dynamic = ({}, {}, {}, {0: torch.export.Dim('rois', min=2, max=1000)})
    for found in in_runtimes(Extract(), (*feats, rois), dynamic, tmp_path):
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_operator_is_registered_before_pytorch_2_4_too(monkeypatch):
    registered = []

    def impl_abstract(name: str) -> Callable:
        registered.append(name)
        return lambda function: function

    monkeypatch.delattr(torch.library, 'register_fake')
    monkeypatch.setattr(torch.library, 'impl_abstract', impl_abstract, raising=False)
    monkeypatch.setattr(torch.library, 'Library', Mock())
    spec = importlib.util.spec_from_file_location('mmdet_sag.deployment.once_more', onnx_operators.__file__)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert registered == ['mmdet_sag::non_max_suppression']


def test_nms_of_each_class_of_each_image(tmp_path):
    class Suppress(nn.Module):
        def forward(self, boxes, scores):
            return non_max_suppression(boxes, scores, 50, 0.5)

    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(2, 40, 2, generator=generator) * 60 - 20
    boxes = torch.cat([corners, corners + 30], dim=2)
    scores = torch.rand(2, 3, 40, generator=generator) - 0.3
    expected = {tuple(row) for row in Suppress()(boxes, scores).tolist()}
    assert 20 < len(expected) < int((scores > 0).sum())
    for found in in_runtimes(Suppress(), (boxes, scores), None, tmp_path):
        assert {tuple(row) for row in found.tolist()} == expected
