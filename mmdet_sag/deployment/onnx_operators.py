"""Operators that PyTorch's exporter writes as one ONNX operator each, and what they compute in PyTorch.

Outside an export, these functions are torchvision's operators, which is also what a TorchScript model holds.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import deform_conv2d as torchvision_deform_conv2d
from torchvision.ops import nms as torchvision_nms
from torchvision.ops import roi_align as torchvision_roi_align

# Of ONNX; the first version whose RoiAlign has torchvision's `aligned` both ways, and that has DeformConv.
OPSET_VERSION = 20


def non_max_suppression(boxes: Tensor, scores: Tensor, max_output: int, iou_threshold: float) -> Tensor:
    """Run NMS in each class of each image.

    Args:
        boxes: x1, y1, x2, y2 of shape (N, M, 4).
        scores: Scores of shape (N, C, M); what is not above 0 is no candidate.
        max_output: Most boxes that are kept of a class of an image. Outside an export, all are.
        iou_threshold: IoU above which the box of the lower score goes.

    Returns:
        Image, class and box of those that stay, shape (k, 3), in no order.
    """
    run = torch.ops.mmdet_sag.non_max_suppression if torch.compiler.is_exporting() else _nms
    return run(boxes, scores, max_output, iou_threshold)


def roi_align(
    feats: Tensor, rois: Tensor, output_size: tuple[int, int], spatial_scale: float, sampling_ratio: int, aligned: bool
) -> Tensor:
    """Average RoIAlign.

    Args:
        feats: Features of shape (N, C, H, W).
        rois: Image index, x1, y1, x2, y2 of shape (n, 5).
        output_size: Height and width of the output.
        spatial_scale: Positions of the features per pixel.
        sampling_ratio: Samples per bin and axis; 0: as many as fit.
        aligned: Whether pixels are shifted by a half, so that they lie where they should.

    Returns:
        RoI features of shape (n, C, *output_size).
    """
    # In float32: half precision has whole pixels at best beyond 1024.
    settings = (spatial_scale, sampling_ratio, aligned)
    if torch.compiler.is_exporting():
        out = torch.ops.mmdet_sag.roi_align(feats.float(), rois, *output_size, *settings)
    else:
        out = torchvision_roi_align(feats.float(), rois, output_size, *settings)
    return out.to(feats.dtype)


def deform_conv(
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    deform_groups: int,
) -> Tensor:
    """Deformable convolution; arguments as those of :func:`torchvision.ops.deform_conv2d`."""
    if torch.compiler.is_exporting():
        run = torch.ops.mmdet_sag.deform_conv
        return run(x, offset, mask, weight, bias, stride, padding, dilation, groups, deform_groups)
    return torchvision_deform_conv2d(x, offset, weight, bias, stride, padding, dilation, mask)


def onnx_translations() -> dict[Callable, Callable]:
    """How the operators are written in ONNX: the ``custom_translation_table`` of ``torch.onnx.export``."""
    from onnxscript import opset20 as op

    def write_nms(boxes, scores, max_output: int, iou_threshold: float):
        # Not 0: runtimes differ in whether a score may equal the threshold.
        limits = (
            op.Constant(value_ints=[max_output]),
            op.Constant(value_floats=[iou_threshold]),
            op.Constant(value_floats=[1e-8]),
        )
        return op.NonMaxSuppression(boxes, scores, *limits)

    def write_roi_align(feats, rois, height: int, width: int, spatial_scale: float, sampling_ratio: int, aligned: bool):
        image = op.Cast(op.Squeeze(op.Slice(rois, [0], [1], [1]), [1]), to=7)
        return op.RoiAlign(
            feats,
            op.Slice(rois, [1], [5], [1]),
            image,
            coordinate_transformation_mode='half_pixel' if aligned else 'output_half_pixel',
            output_height=height,
            output_width=width,
            sampling_ratio=sampling_ratio,
            spatial_scale=spatial_scale,
        )

    def write_deform_conv(x, offset, mask, weight, bias, stride, padding, dilation, groups: int, deform_groups: int):
        return op.DeformConv(
            x,
            weight,
            offset,
            bias,
            mask,
            strides=stride,
            pads=[*padding, *padding],
            dilations=dilation,
            group=groups,
            offset_group=deform_groups,
        )

    ops = torch.ops.mmdet_sag
    return {
        ops.non_max_suppression.default: write_nms,
        ops.roi_align.default: write_roi_align,
        ops.deform_conv.default: write_deform_conv,
    }


def read_with_openvino(onnx_path: Path):
    """Read an ONNX file with OpenVINO, which has deformable convolutions, but does not know them from ONNX.

    Args:
        onnx_path: Path of the file.

    Returns:
        The ``openvino.Model``, of OpenVINO's own operators.
    """
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
        if bias is not None:
            out = opset8.add(out, opset8.unsqueeze(bias, [0, 2, 3]))
        return [out.output(0)]

    core = openvino.Core()
    core.add_extension(ConversionExtension('DeformConv', read_deform_conv))
    return core.read_model(str(onnx_path))


def _nms(boxes: Tensor, scores: Tensor, max_output: int, iou_threshold: float) -> Tensor:
    candidates = (scores > 0).nonzero()
    image, label, box = candidates.unbind(1)
    # Images and classes are set apart, in float64, in which that loses no digit of the boxes.
    boxes = boxes.double()
    apart = (image * scores.shape[1] + label) * (boxes.max() - boxes.min() + 1)
    kept = torchvision_nms(boxes[image, box] + apart[:, None], scores[image, label, box].double(), iou_threshold)
    return candidates[kept]


_library = torch.library.Library('mmdet_sag', 'FRAGMENT')
_library.define('non_max_suppression(Tensor boxes, Tensor scores, int max_output, float iou_threshold) -> Tensor')
_library.define(
    'roi_align(Tensor feats, Tensor rois, int height, int width, float spatial_scale, int sampling_ratio, '
    'bool aligned) -> Tensor'
)
_library.define(
    'deform_conv(Tensor x, Tensor offset, Tensor? mask, Tensor weight, Tensor? bias, int[] stride, int[] padding, '
    'int[] dilation, int groups, int deform_groups) -> Tensor'
)


@torch.library.register_fake('mmdet_sag::non_max_suppression')
def _(boxes: Tensor, scores: Tensor, max_output: int, iou_threshold: float) -> Tensor:
    return boxes.new_empty(torch.library.get_ctx().new_dynamic_size(), 3, dtype=torch.int64)


@torch.library.register_fake('mmdet_sag::roi_align')
def _(feats, rois, height, width, spatial_scale, sampling_ratio, aligned) -> Tensor:
    return feats.new_empty(rois.shape[0], feats.shape[1], height, width)


@torch.library.register_fake('mmdet_sag::deform_conv')
def _(x, offset, mask, weight, bias, stride, padding, dilation, groups, deform_groups) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0], *offset.shape[2:])
