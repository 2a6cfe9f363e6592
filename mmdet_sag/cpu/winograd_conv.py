import logging
import math
import threading
from functools import cache
from types import ModuleType

import torch
from mmcv.cnn.bricks.wrappers import Conv2d
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable

from . import winograd_transforms
from .replacements import Replacement, is_plain_cpu

# One for each thread. Allocating this memory takes as long as the transforms that use it.
_SCRATCH = threading.local()


class WinogradConv(Replacement):
    """A 3x3 conv by Winograd's minimal filtering F(4x4, 3x3): a quarter of the multiplications, on a CPU.

    Results and gradients differ from the conv's by rounding, three times that of the conv itself. It is the conv's own
    forward where :func:`is_plain_cpu` does not hold: GPUs' libraries choose such algorithms by themselves, and
    processors that are fast in bfloat16 do not need them. So it is on small features while weights may change.
    Source: `Lavin and Gray <https://arxiv.org/abs/1509.09308>`_.

    The weights of a ``frozen`` conv, loaded by now, are transformed once, into a copy four times as large; gradients
    are left to the conv's own forward. Otherwise weights may change, as in training.
    """

    def __init__(self, conv: nn.Conv2d, frozen: bool = True) -> None:
        super().__init__(conv)
        self.filters = None
        if frozen:
            weight = conv.weight.detach().double()
            filters = weight.new_empty(36, *weight.shape[:2])
            winograd_transforms.transform_filters(weight, filters)
            self.filters = filters.transpose(1, 2).float().contiguous()

    @staticmethod
    def suits(module: nn.Module) -> bool:
        """Whether this computes a module faster: a 3x3 conv of stride 1, not too narrow, on a CPU."""
        return (
            type(module) in (nn.Conv2d, Conv2d)
            and (module.kernel_size, module.stride, module.padding, module.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
            and module.groups == 1
            and module.padding_mode == 'zeros'
            and module.weight.device.type == 'cpu'
            and min(module.in_channels, module.out_channels) >= transforms().MIN_CHANNELS
        )

    def __call__(self, x: Tensor) -> Tensor:
        """Convolve features (N, C, H, W); the result is channels last in memory."""
        if x.numel() == 0 or not is_plain_cpu(x):
            return self.original(x)
        conv = self.module
        if self.filters is None:
            # Of 4x4 results each.
            num_tiles = len(x) * -(-x.shape[2] // 4) * -(-x.shape[3] // 4)
            if num_tiles >= transforms().MIN_TRAINED_TILES:
                return _TrainedConvolution.apply(x, conv.weight, conv.bias)
        elif not torch.is_grad_enabled():
            return _convolve(x, self.filters, conv.bias)
        return self.original(x)


class _TrainedConvolution(Function):
    """The conv with its gradients, each of which is a minimal filtering as well."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _convolve(x, _trained_filters(weight).transpose(1, 2), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = _convolve(grad, _trained_filters(weight, rotate=True), None)
        if ctx.needs_input_grad[1]:
            grad_weight = _filter_gradient(x, grad)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum((0, 2, 3))
        return grad_x, grad_weight, grad_bias


@cache
def transforms() -> ModuleType:
    """The compiled transforms where there is Numba."""
    try:
        from . import winograd_kernels
    except ImportError as error:
        message = f'Convs on a CPU are not as fast as with Numba ({error}): pip install numba'
        print_log(message, logger='current', level=logging.WARNING)
        return winograd_transforms
    return winograd_kernels


def _trained_filters(weight: Tensor, rotate: bool = False) -> Tensor:
    filters = _scratch('filters', 36, *weight.shape[:2])
    winograd_transforms.transform_filters(weight.detach(), filters, rotate)
    return filters


def _convolve(x: Tensor, filters: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve features (N, C, H, W) with transformed filters (36, C, O)."""
    _, channels, out_channels = filters.shape
    # Not a view: operators that work in place could not take its gradient.
    shape = (len(x), out_channels, *x.shape[2:])
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    images, results = _channels_last(x), _channels_last(out)
    bias = None if bias is None else bias.detach()
    for chunk in winograd_transforms.chunks(*images.shape[:3]):
        points = _scratch('points', 36, chunk.count, channels)
        products = _scratch('products', 36, chunk.count, out_channels)
        transforms().transform_inputs(images, chunk, points)
        torch.bmm(points, filters, out=products)
        transforms().transform_outputs(products, chunk, results, bias)
    return out


def _filter_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """Gradient (O, C, 3, 3) of the filters that convolved x (N, C, H, W), from that of the result (N, O, H, W)."""
    channels, out_channels = x.shape[1], grad.shape[1]
    images, gradients = _channels_last(x), _channels_last(grad)
    filters = _scratch('filters', 36, out_channels, channels)
    for chunk in winograd_transforms.chunks(*images.shape[:3]):
        points = _scratch('points', 36, chunk.count, channels)
        grad_points = _scratch('products', 36, chunk.count, out_channels)
        transforms().transform_inputs(images, chunk, points)
        transforms().transform_gradients(gradients, chunk, grad_points)
        # With beta 0, what the memory held before is not read.
        torch.baddbmm(filters, grad_points.transpose(1, 2), points, beta=min(chunk.first, 1), out=filters)
    return winograd_transforms.filter_gradient(filters)


def _scratch(name: str, *shape: int) -> Tensor:
    """Memory of a purpose, which keeps its content until the next use of that name in this thread."""
    size = math.prod(shape)
    memory = getattr(_SCRATCH, name, None)
    if memory is None or len(memory) < size:
        # Training cannot write to what inference mode made.
        with torch.inference_mode(False):
            memory = torch.empty(size, dtype=torch.float32, device='cpu')
        setattr(_SCRATCH, name, memory)
    return memory[:size].view(shape)


def _channels_last(x: Tensor) -> Tensor:
    """Features (N, C, H, W) as contiguous (N, H, W, C), without their history."""
    return x.detach().permute(0, 2, 3, 1).contiguous()
