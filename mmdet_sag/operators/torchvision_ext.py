"""Stands in for ``mmcv._ext``, mmcv's compiled operators, with torchvision's operators.

It is loaded under that name, by file (see ``mmdet_sag_operators.py``): ``mmdet_sag`` itself imports ``mmcv.ops``, which
imports this. Every function is called like its namesake in mmcv and writes into the tensors that mmcv passes; mmcv
passes ``options`` by name.
"""

import math
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_MMCV_BUILD = 'install mmcv with compiled operators (docs/install.md)'


def _installing() -> str:
    """Say how to install the torchvision of this torch, with the command where it is a release of PyTorch's index."""
    remedy = f'install the torchvision that was built for torch {torch.__version__}'
    release = re.fullmatch(r'2\.(\d+)\.\d+\+(cpu|cu\d+|rocm[\d.]+)', torch.__version__)
    if release is None:
        return remedy
    # That of PyTorch 2.0 is 0.15.
    command = f"pip install --force-reinstall --no-deps 'torchvision==0.{int(release[1]) + 15}.*'"
    return f'{remedy} ({command} --index-url https://download.pytorch.org/whl/{release[2]})'


def _unusable(message: str) -> ImportError:
    """Make the error of a torchvision that does not fit: uncaught, it is one line instead of the whole import."""
    error, hook = ImportError(message, name='torchvision'), sys.excepthook

    def print_uncaught(kind: type, raised: BaseException, trace: Any) -> None:
        if raised is error:
            print(f'error: {error}', file=sys.stderr)
        else:
            hook(kind, raised, trace)

    sys.excepthook = print_uncaught
    return error


try:
    import torchvision
except Exception as e:
    # A pair that does not fit raises an ImportError, an OSError or a RuntimeError, depending on the versions.
    _reason = str(e).splitlines()[0] if str(e) else type(e).__name__
    raise _unusable(
        f"torchvision's operators, which stand in for mmcv's compiled ones, cannot be loaded ({_reason}): "
        f'{_installing()}, or {_MMCV_BUILD}'
    ) from e
if not torchvision.extension._has_ops():
    raise _unusable(
        f"torchvision {torchvision.__version__}, whose operators stand in for mmcv's compiled ones, was built for "
        f'another torch: {_installing()}, or {_MMCV_BUILD}'
    )

_ops = torch.ops.torchvision


def __getattr__(name: str) -> Callable:
    """A function for an operator that torchvision lacks: it can be imported, but raises when it is called."""
    if name.startswith('__'):
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

    def missing(*args: Any, **kwargs: Any) -> None:
        raise NotImplementedError(
            f"mmcv's operator {name} has no counterpart in torchvision, whose operators stand in here: {_MMCV_BUILD}"
        )

    missing.__name__ = missing.__qualname__ = name
    return missing


# What PyTorch 2.11 compiles of mmcv's operators has gradients of zero.
_not_compiled = torch.compiler.disable if torch.__version__.startswith('2.11.') else lambda function: function


def get_compiler_version() -> str:
    return f'none, operators of torchvision {torchvision.__version__}'


def get_compiling_cuda_version() -> str:
    version = _ops._cuda_version()
    return 'not available' if version < 0 else f'{version // 1000}.{version % 1000 // 10}'


@_not_compiled
def roi_align_forward(
    input: Tensor, rois: Tensor, output: Tensor, argmax_y: Tensor, argmax_x: Tensor, **options: Any
) -> None:
    geometry = _roi_align_geometry(options)
    input, rois = _computable(input, rois)
    output.copy_(_ops.roi_align(input, _without_nan(rois), *geometry))


def roi_align_backward(
    grad_output: Tensor, rois: Tensor, argmax_y: Tensor, argmax_x: Tensor, grad_input: Tensor, **options: Any
) -> None:
    *size, sampling_ratio, aligned = _roi_align_geometry(options)
    grad_output, rois = _computable(grad_output, rois)
    rois = _without_nan(rois)
    with _nondeterminism_allowed():
        grad = _ops._roi_align_backward(grad_output, rois, *size, *grad_input.shape, sampling_ratio, aligned)
    grad_input.copy_(grad)


@_not_compiled
def roi_pool_forward(input: Tensor, rois: Tensor, output: Tensor, argmax: Tensor, **options: Any) -> None:
    (features,) = _computable(input)
    pooled, index = _ops.roi_pool(features, _bins(rois, features, **options), 1.0, 1, 1)
    output.copy_(_from_bins(pooled, output))
    argmax.copy_(_from_bins(index, argmax))


def roi_pool_backward(grad_output: Tensor, rois: Tensor, argmax: Tensor, grad_input: Tensor, **options: Any) -> None:
    (grad_output,) = _computable(grad_output)
    bins = _bins(rois, grad_output.new_empty(grad_input.shape), **options)
    with _nondeterminism_allowed():
        grad = _ops._roi_pool_backward(_to_bins(grad_output), bins, _to_bins(argmax), 1.0, 1, 1, *grad_input.shape)
    grad_input.copy_(grad)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    dtype = torch.promote_types(torch.promote_types(boxes.dtype, scores.dtype), torch.float32)
    boxes, scores = boxes.to(dtype), scores.to(dtype)
    if offset:
        boxes = torch.cat([boxes[:, :2], boxes[:, 2:] + offset], dim=1)
    return _ops.nms(boxes, scores, iou_threshold)


def softnms(boxes: Tensor, scores: Tensor, dets: Tensor, **options: Any) -> Tensor:
    # mmcv passes CPU tensors. Each selected box changes the scores of the others, so boxes are selected one by one.
    offset, method, min_score = (options[name] for name in ('offset', 'method', 'min_score'))
    indices = torch.arange(len(boxes))
    boxes, scores = _computable(boxes, scores)
    areas = (boxes[:, 2] - boxes[:, 0] + offset) * (boxes[:, 3] - boxes[:, 1] + offset)
    taken = []
    while len(indices):
        best = scores.argmax()
        dets[len(taken), :4] = boxes[best]
        dets[len(taken), 4] = scores[best]
        taken.append(indices[best])
        sides = torch.minimum(boxes[:, 2:], boxes[best, 2:]) - torch.maximum(boxes[:, :2], boxes[best, :2]) + offset
        intersections = sides.clamp(min=0).prod(dim=1)
        ious = intersections / (areas[best] + areas - intersections)
        if method == 2:
            scores = scores * torch.exp(-(ious**2) / options['sigma'])
        else:
            scores = torch.where(ious >= options['iou_threshold'], scores * (1 - ious if method == 1 else 0), scores)
        # Not `>= min_score`: boxes without area have no IoU.
        left = ~(scores < min_score)
        left[best] = False
        boxes, scores, areas, indices = boxes[left], scores[left], areas[left], indices[left]
    return torch.stack(taken) if taken else indices


def deform_conv_forward(
    input: Tensor, weight: Tensor, offset: Tensor, output: Tensor, columns: Tensor, ones: Tensor, **options: int
) -> None:
    output.copy_(_deform_conv(options, input, weight, offset, None, None))


def deform_conv_backward_input(*tensors: Tensor, **options: int) -> None:
    input, offset, grad_output, grad_input, grad_offset, weight, columns = tensors
    grads = _deform_conv_backward(options, grad_output, input, weight, offset, None, None)
    grad_input.copy_(grads[0])
    grad_offset.copy_(grads[2])
    # mmcv passes this buffer to the next function, which need not compute it again.
    columns.resize_(grads[1].shape).copy_(grads[1])


def deform_conv_backward_parameters(*tensors: Tensor, scale: float, **options: int) -> None:
    input, offset, grad_output, grad_weight, columns, _ = tensors
    grad = columns
    if columns.shape != grad_weight.shape:
        grad = _deform_conv_backward(options, grad_output, input, grad_weight, offset, None, None)[1]
    grad_weight.add_(grad, alpha=scale)


@_not_compiled
def modulated_deform_conv_forward(*tensors: Tensor, with_bias: bool, **options: int) -> None:
    input, weight, bias, _, offset, mask, output, _ = tensors
    output.copy_(_deform_conv(options, input, weight, offset, mask, bias if with_bias else None))


def modulated_deform_conv_backward(*tensors: Tensor, with_bias: bool, **options: int) -> None:
    input, weight, bias, _, offset, mask, _, grad_input, grad_weight, grad_bias, *rest = tensors
    grad_offset, grad_mask, grad_output = rest
    bias = bias if with_bias else None
    grads = _deform_conv_backward(options, grad_output, input, weight, offset, mask, bias)
    for target, grad in zip((grad_input, grad_weight, grad_offset, grad_mask), grads):
        target.copy_(grad)
    if with_bias:
        grad_bias.copy_(grads[-1])


@_not_compiled
def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    (logits,) = _computable(input)
    p = logits.sigmoid()
    loss = torch.where(
        _one_hot(target, logits),
        -alpha * (1 - p) ** gamma * _log_sigmoid(logits),
        (alpha - 1) * p**gamma * _log_sigmoid(-logits),
    )
    output.copy_(_weighted(loss, target, weight))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    (logits,) = _computable(input)
    p = logits.sigmoid()
    grad = torch.where(
        _one_hot(target, logits),
        -alpha * (1 - p) ** gamma * (1 - p - gamma * p * _log_sigmoid(logits)),
        (alpha - 1) * p**gamma * (gamma * (1 - p) * _log_sigmoid(-logits) - p),
    )
    grad_input.copy_(_weighted(grad, target, weight))


def _computable(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Convert half precision to float32, as torchvision does under autocast: some kernels lack a half type."""
    return tuple(tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in tensors)


@contextmanager
def _nondeterminism_allowed() -> Iterator[None]:
    """On CUDA, torchvision's backward passes raise in deterministic mode; mmcv's, no more deterministic, do not."""
    if not torch.are_deterministic_algorithms_enabled() or torch.is_deterministic_algorithms_warn_only_enabled():
        yield
        return
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(True)


def _without_nan(rois: Tensor) -> Tensor:
    """Move RoIs of which a coordinate is NaN, as a training that diverges may have them, outside the features.

    On a CPU, torchvision would read memory that is not the features'.
    """
    if rois.device.type != 'cpu':
        return rois
    broken = rois.isnan().any(dim=1, keepdim=True)
    return torch.cat([rois[:, :1], rois[:, 1:].masked_fill(broken, -1e6)], dim=1)


def _roi_align_geometry(options: dict[str, Any]) -> list:
    """Scale, height, width, sampling ratio and alignment in torchvision's order."""
    if options['pool_mode'] == 0:
        __getattr__("roi_align_forward with pool_mode='max'")()
    return [options[k] for k in ('spatial_scale', 'aligned_height', 'aligned_width', 'sampling_ratio', 'aligned')]


def _bins(rois: Tensor, features: Tensor, pooled_height: int, pooled_width: int, spatial_scale: float) -> Tensor:
    """Every bin of mmcv's RoIPool as an RoI of its own for torchvision's, which rounds an RoI before it divides it.

    They are (num_rois * pooled_height * pooled_width, 5), in whole pixels of ``features``, their ends included.
    """
    (rois,) = _computable(rois)
    height, width = features.shape[-2:]
    starts = rois[:, 1:3] * spatial_scale
    sizes = (rois[:, 3:5] + 1) * spatial_scale - starts
    edges = []
    for axis, count in ((0, pooled_width), (1, pooled_height)):
        steps = torch.arange(count + 1, device=rois.device, dtype=rois.dtype)
        edges.append(steps * (sizes[:, axis, None] / count) + starts[:, axis, None])
    (x, y), shape = edges, (len(rois), pooled_height, pooled_width)
    corners = [x[:, None, :-1].floor(), y[:, :-1, None].floor(), x[:, None, 1:].ceil() - 1, y[:, 1:, None].ceil() - 1]
    bins = torch.stack([edge.expand(shape) for edge in (rois[:, 0, None, None], *corners)], dim=-1)
    # An empty RoI pools nothing, like one outside the features.
    outside = bins.new_tensor([width, height, width, height])
    bins[..., 1:] = torch.where((sizes > 0).all(dim=1)[:, None, None, None], bins[..., 1:], outside)
    return bins.flatten(0, 2).to(features.dtype)


def _to_bins(tensor: Tensor) -> Tensor:
    return tensor.permute(0, 2, 3, 1).flatten(0, 2)[..., None, None].contiguous()


def _from_bins(tensor: Tensor, like: Tensor) -> Tensor:
    num_rois, channels, height, width = like.shape
    return tensor.view(num_rois, height, width, channels).permute(0, 3, 1, 2)


def _geometry(options: dict[str, int]) -> list[int]:
    """Strides, paddings, dilations and groups in torchvision's order, from either of mmcv's spellings."""
    first = ('dH', 'dW', 'padH', 'padW', 'dilationH', 'dilationW')
    modulated = ('stride_h', 'stride_w', 'pad_h', 'pad_w', 'dilation_h', 'dilation_w')
    names = first if 'dH' in options else modulated
    return [options[name] for name in (*names, 'group', 'deformable_group')]


def _deform_conv(options: dict[str, int], *tensors: Tensor | None) -> Tensor:
    """Output, from input, weight, offset, mask and bias."""
    # Under autocast, torchvision converts to float32.
    with torch.autocast(tensors[0].device.type, enabled=False):
        return _ops.deform_conv2d(*_deform_conv_tensors(*tensors), *_geometry(options), tensors[3] is not None)


def _deform_conv_backward(options: dict[str, int], grad_output: Tensor, *tensors: Tensor | None) -> tuple[Tensor, ...]:
    """Gradients of input, weight, offset, mask and bias."""
    modulated, tensors = tensors[3] is not None, _deform_conv_tensors(*tensors)
    tensors = (grad_output.to(tensors[0].dtype), *tensors)
    with _nondeterminism_allowed():
        return _ops._deform_conv2d_backward(*tensors, *_geometry(options), modulated)


def _deform_conv_tensors(
    input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, ...]:
    if offset.device.type == 'cpu':
        # Outside the features, as mmcv has it. Torchvision would read memory that is not the features'.
        offset = offset.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)
    mask = input.new_zeros((len(input), 1)) if mask is None else mask
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    tensors = input, weight, offset, mask, bias
    # Torchvision's kernels for CUDA take float16, not bfloat16, whose positions would be off by whole pixels.
    half = input.device.type == 'cuda' and all(tensor.dtype == torch.float16 for tensor in tensors)
    return tensors if half else _computable(*tensors)


def _one_hot(target: Tensor, logits: Tensor) -> Tensor:
    return target[:, None] == torch.arange(logits.size(1), device=logits.device)


def _log_sigmoid(logits: Tensor) -> Tensor:
    """At least the logarithm of the smallest float, as in mmcv."""
    return F.logsigmoid(logits).clamp(min=math.log(torch.finfo(torch.float32).tiny))


def _weighted(values: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    return values * weight[target, None] if weight.numel() else values
