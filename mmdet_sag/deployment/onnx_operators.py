"""Operators that ONNX and OpenVINO have in another form than PyTorch, and layers that are exported as them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from mmcv.ops import DeformConv2d, ModulatedDeformConv2dPack, RoIAlign, SAConv2d
from mmdet.models.roi_heads.roi_extractors import BaseRoIExtractor
from torch import Tensor, nn
from torchvision.ops import deform_conv2d, nms, roi_align

from ..errors import InputError

# Of ONNX: the one that is written by default, those that can be, and the one that PyTorch's exporter writes by itself.
OPSET_VERSION = 20
OPSET_VERSIONS = (16, 17, 18, 19, 20)
NATIVE_OPSET = 18


class ExportableDeformConv(nn.Module):
    """A layer of mmcv's DCN or DCNv2, computed by torchvision's operator, which can be exported."""

    def __init__(self, conv: DeformConv2d | ModulatedDeformConv2dPack) -> None:
        super().__init__()
        self.conv = conv
        self.modulated = isinstance(conv, ModulatedDeformConv2dPack)

    def forward(self, x: Tensor, offset: Tensor | None = None) -> Tensor:
        """Convolve features (N, C, H, W), with the offsets of the layer's own conv unless others are given."""
        conv, mask = self.conv, None
        offset = conv.conv_offset(x) if offset is None else offset
        if self.modulated:
            first, second, mask = offset.chunk(3, dim=1)
            offset, mask = torch.cat([first, second], dim=1), mask.sigmoid()
        bias = getattr(conv, 'bias', None)
        return deform_conv2d(x, offset, conv.weight, bias, conv.stride, conv.padding, conv.dilation, mask)


class ExportableSAConv(nn.Module):
    """A switchable atrous conv of DetectoRS, whose deformable convs are torchvision's, which can be exported.

    Its weights are standardised once, in place of at each call.
    """

    def __init__(self, conv: SAConv2d) -> None:
        super().__init__()
        self.conv = conv
        self.register_buffer('weight', conv._get_weight(conv.weight).detach())

    def forward(self, x: Tensor) -> Tensor:
        """Convolve features (N, C, H, W)."""
        conv = self.conv
        x = x + conv.pre_context(F.adaptive_avg_pool2d(x, 1))
        around = F.avg_pool2d(F.pad(x, (2, 2, 2, 2), mode='reflect'), 5, stride=1)
        switch = conv.switch(around)
        near = self._convolve(x, around, self.weight, 's', 1)
        far = self._convolve(x, around, self.weight + conv.weight_diff, 'l', 3)
        out = switch * near + (1 - switch) * far
        return out + conv.post_context(F.adaptive_avg_pool2d(out, 1))

    def _convolve(self, x: Tensor, around: Tensor, weight: Tensor, name: str, factor: int) -> Tensor:
        conv = self.conv
        padding, dilation = ([factor * side for side in sides] for sides in (conv.padding, conv.dilation))
        if not conv.use_deform:
            return F.conv2d(x, weight, None, conv.stride, padding, dilation, conv.groups)
        offset = getattr(conv, f'offset_{name}')(around)
        return deform_conv2d(x, offset, weight, None, conv.stride, padding, dilation)


class ExportableRoIExtractor(nn.Module):
    """A RoI extractor, of one level or several, without control flow.

    RoIs are grouped by level, pooled from their own level only, and put back into order. The number of RoIs of a level
    may be any, and is known only when the model runs.
    """

    def __init__(self, extractor: BaseRoIExtractor) -> None:
        super().__init__()
        self.extractor = extractor
        self.num_inputs = extractor.num_inputs

    def forward(self, feats: Sequence[Tensor], rois: Tensor, img_areas: Tensor | None = None) -> Tensor:
        """Pool features (N, C, H, W) of each level in RoIs (n, 5) to (n, C, output_size, output_size).

        ``img_areas`` (n, ), the area of each RoI's image, is for a :class:`ScaleAdaptiveRoIExtractor`.
        """
        layers = self.extractor.roi_layers
        if len(feats) == 1:
            return layers[0](feats[0], rois)
        levels = self.extractor.map_roi_levels(rois, len(feats) if img_areas is None else img_areas)
        places = [(levels == level).nonzero().squeeze(1) for level in range(len(feats))]
        pooled = torch.cat([layer(x, rois[place]) for layer, x, place in zip(layers, feats, places)])
        places = torch.cat(places)
        order = torch.zeros_like(levels).scatter(0, places, torch.arange(places.shape[0], device=rois.device))
        return pooled[order]


class ExportableRoIAlign(nn.Module):
    """An average RoIAlign, computed by torchvision's operator, which can be exported."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        if not isinstance(layer, RoIAlign) or layer.pool_mode != 'avg':
            raise InputError(f'{type(layer).__name__} of the RoI extractor cannot be exported, only RoIAlign can')
        self.output_size = layer.output_size
        self.settings = (layer.output_size, layer.spatial_scale, layer.sampling_ratio, layer.aligned)

    def forward(self, feats: Tensor, rois: Tensor) -> Tensor:
        """Pool features (N, C, H, W) in RoIs (n, 5)."""
        # In float32: beyond 1024, half precision has no fractions of pixels.
        return roi_align(feats.float(), rois, *self.settings).to(feats.dtype)


def is_exporting() -> bool:
    """Whether ``torch.export`` traces the graph, which PyTorch can tell from 2.7 on."""
    return hasattr(torch.compiler, 'is_exporting') and torch.compiler.is_exporting()


def non_max_suppression(boxes: Tensor, scores: Tensor, max_output: int, iou_threshold: float) -> Tensor:
    """Run NMS in each class of each image, in boxes (N, M, 4) with scores (N, C, M), those above 0.

    PyTorch's exporter writes it as one ONNX operator; a TorchScript model holds torchvision's. Only an exported model
    applies ``max_output``, the most boxes to keep per class and image.

    Returns:
        Image, class and box of those that are kept, shape (k, 3), in no order.
    """
    if is_exporting():
        return torch.ops.mmdet_sag.non_max_suppression(boxes, scores, max_output, iou_threshold)
    candidates = (scores > 0).nonzero()
    image, label, box = candidates.unbind(1)
    # Images and classes are moved apart, in float64, which keeps all digits of the boxes.
    boxes = boxes.double()
    apart = (image * scores.shape[1] + label) * (boxes.max() - boxes.min() + 1)
    kept = nms(boxes[image, box] + apart[:, None], scores[image, label, box].double(), iou_threshold)
    return candidates[kept]


# Before PyTorch 2.4, it had another name.
_register_fake = getattr(torch.library, 'register_fake', None) or torch.library.impl_abstract
_library = torch.library.Library('mmdet_sag', 'FRAGMENT')
_library.define('non_max_suppression(Tensor boxes, Tensor scores, int max_output, float iou_threshold) -> Tensor')


@_register_fake('mmdet_sag::non_max_suppression')
def _(boxes: Tensor, scores: Tensor, max_output: int, iou_threshold: float) -> Tensor:
    return boxes.new_empty(torch.library.get_ctx().new_dynamic_size(), 3, dtype=torch.int64)


def onnx_translations() -> dict[Callable, Callable]:
    """How the operators are written in ONNX: the ``custom_translation_table`` of ``torch.onnx.export``."""
    # DeformConv is of opset 19, the others of 16 or earlier.
    from onnxscript import opset16 as op
    from onnxscript import opset19

    def write_nms(boxes, scores, max_output: int, iou_threshold: float):
        # Not 0: runtimes differ in whether a score may equal the threshold.
        limits = (dict(value_ints=[max_output]), dict(value_floats=[iou_threshold]), dict(value_floats=[1e-8]))
        return op.NonMaxSuppression(boxes, scores, *(op.Constant(**limit) for limit in limits))

    def write_roi_align(feats, rois, spatial_scale: float, height: int, width: int, sampling_ratio: int, aligned: bool):
        return op.RoiAlign(
            feats,
            op.Slice(rois, [1], [5], [1]),
            op.Cast(op.Squeeze(op.Slice(rois, [0], [1], [1]), [1]), to=7),
            coordinate_transformation_mode='half_pixel' if aligned else 'output_half_pixel',
            output_height=height,
            output_width=width,
            sampling_ratio=sampling_ratio,
            spatial_scale=spatial_scale,
        )

    def write_deform_conv(
        x,
        weight,
        offset,
        mask,
        bias,
        stride_h: int,
        stride_w: int,
        pad_h: int,
        pad_w: int,
        dilation_h: int,
        dilation_w: int,
        groups: int,
        deform_groups: int,
        modulated: bool,
    ):
        return opset19.DeformConv(
            x,
            weight,
            offset,
            bias,
            mask if modulated else None,
            strides=[stride_h, stride_w],
            pads=[pad_h, pad_w, pad_h, pad_w],
            dilations=[dilation_h, dilation_w],
            group=groups,
            offset_group=deform_groups,
        )

    return {
        torch.ops.mmdet_sag.non_max_suppression.default: write_nms,
        torch.ops.torchvision.roi_align.default: write_roi_align,
        torch.ops.torchvision.deform_conv2d.default: write_deform_conv,
    }


def lower_opset(model, version: int):
    """Write an ``onnx.ModelProto`` in an earlier opset, and check it."""
    from onnx import checker, defs, helper, version_converter

    for node in model.graph.node:
        try:
            kept = defs.get_schema(node.op_type, version).attributes
        except defs.SchemaError as e:
            raise InputError(
                f'ONNX has no {node.op_type} in opset {version}, which this model needs: use --opset {OPSET_VERSION}'
            ) from e
        newest = defs.get_schema(node.op_type).attributes
        # Attributes that came later are written with their defaults, and the converter fails on them.
        for attribute in [attribute for attribute in node.attribute if attribute.name not in kept]:
            default = newest[attribute.name].default_value
            if helper.get_attribute_value(attribute) == helper.get_attribute_value(default):
                node.attribute.remove(attribute)
    if version < model.opset_import[0].version:
        model = version_converter.convert_version(model, version)
        del model.graph.value_info[:]
    checker.check_model(model, full_check=True)
    return model


def read_with_openvino(onnx_path: Path):
    """Read an ONNX file as an ``openvino.Model``; by itself, OpenVINO does not read deformable convolutions."""
    import openvino
    from openvino import opset8
    from openvino.frontend.onnx import ConversionExtension

    def read_deform_conv(node) -> list:
        inputs = [node.get_input(i) for i in range(node.get_input_size())]
        # An input that is left out before another one is a node of its own, which no file can hold.
        inputs = [None if value.get_node().get_type_name() == 'NullNode' else value for value in inputs]
        x, weight, offset, bias, mask = inputs + [None] * (5 - len(inputs))
        begin, end = np.split(np.array(node.get_attribute('pads')), 2)
        out = opset8.deformable_convolution(
            x,
            offset,
            weight,
            node.get_attribute('strides'),
            begin,
            end,
            node.get_attribute('dilations'),
            mask=mask,
            auto_pad='explicit',
            group=node.get_attribute('group'),
            deformable_group=node.get_attribute('offset_group'),
            bilinear_interpolation_pad=True,
        )
        return [opset8.add(out, opset8.unsqueeze(bias, [0, 2, 3])).output(0)]

    core = openvino.Core()
    core.add_extension(ConversionExtension('DeformConv', read_deform_conv))
    return core.read_model(str(onnx_path))
