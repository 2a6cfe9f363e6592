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
from .plain_cpu import is_plain_cpu
from .winograd_tiling import WinogradTiling

# Of each thread: memory that is taken anew costs as much time as the transforms that it is for.
_SCRATCH = threading.local()


class WinogradConv:
    """A 3x3 conv by Winograd's minimal filtering: a quarter of the multiplications, on a CPU.

    It stands in for the ``forward`` of an ``nn.Conv2d``, which stays as it is. The results differ from the conv's by
    rounding, three times that of the conv itself, and so do the gradients. Other devices, other types than float32 and
    mixed precision get the conv's own forward: GPUs' libraries choose such algorithms by themselves, and processors
    that are fast in bfloat16 do not need them. So do small features while weights may change.
    Source: `Lavin and Gray <https://arxiv.org/abs/1509.09308>`_.

    Args:
        conv: The conv, see :meth:`suits`.
        frozen: Whether the weights, loaded by now, are transformed once and for all, into a copy four times as large.
            Then, gradients are left to the conv's own forward. Else weights may change, as they do in training.
    """

    def __init__(self, conv: nn.Conv2d, frozen: bool = True) -> None:
        self.conv = conv
        self.spectrum = None
        if frozen:
            weight = conv.weight.detach().cpu().double()
            spectrum = weight.new_empty(36, *weight.shape[1::-1])
            winograd_transforms.transform_filters(weight, spectrum)
            self.spectrum = spectrum.float()

    @staticmethod
    def suits(module: nn.Module) -> bool:
        """Whether a module is a conv that this class computes, and faster: 3x3, stride 1, not too narrow."""
        return (
            type(module) in (nn.Conv2d, Conv2d)
            and (module.kernel_size, module.stride, module.padding, module.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
            and module.groups == 1
            and module.padding_mode == 'zeros'
            and min(module.in_channels, module.out_channels) >= transforms().MIN_CHANNELS
        )

    def __call__(self, x: Tensor) -> Tensor:
        """Convolve features (N, C, H, W); the result is channels last in memory."""
        conv = self.conv
        if x.numel() == 0 or not is_plain_cpu(x) or not self._applies_to(x):
            return type(conv).forward(conv, x)
        if self.spectrum is not None:
            return _convolve(x, self.spectrum, conv.bias)
        return _TrainedConvolution.apply(x, conv.weight, conv.bias)

    def _applies_to(self, x: Tensor) -> bool:
        if self.spectrum is not None:
            return not torch.is_grad_enabled()
        return _tiling(x).count >= transforms().MIN_TRAINED_TILES


class _TrainedConvolution(Function):
    """The conv with its gradients, each of which is a minimal filtering as well."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _convolve(x, _trained_spectrum(weight), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = _convolve(grad, _trained_spectrum(weight.flip(2, 3).transpose(0, 1)), None)
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


def _tiling(x: Tensor) -> WinogradTiling:
    return WinogradTiling(len(x), *x.shape[2:])


def _scratch(name: str, *shape: int) -> Tensor:
    """Memory of a purpose, which keeps what it holds until the next use of that name in this thread."""
    size = math.prod(shape)
    memory = getattr(_SCRATCH, name, None)
    if memory is None or len(memory) < size:
        # Training cannot write to what inference mode made.
        with torch.inference_mode(False):
            memory = torch.empty(size, dtype=torch.float32, device='cpu')
        setattr(_SCRATCH, name, memory)
    return memory[:size].view(shape)


def _trained_spectrum(weight: Tensor) -> Tensor:
    spectrum = _scratch('spectrum', 36, *weight.shape[1::-1])
    transforms().transform_filters(weight.detach(), spectrum)
    return spectrum


def _convolve(x: Tensor, spectrum: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve features (N, C, H, W) with transformed filters (36, C, O)."""
    num, channels, height, width = x.shape
    out_channels = spectrum.shape[2]
    winograd, tiling = transforms(), _tiling(x)
    x, bias = _channels_last(x), None if bias is None else bias.detach()
    # Not a view, which operators that work in place could not take the gradient of.
    shape = (num, out_channels, height, width)
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    results = _channels_last(out)
    for chunk in tiling.chunks():
        points = _scratch('points', 36, chunk.count, channels)
        products = _scratch('products', 36, chunk.count, out_channels)
        winograd.transform_inputs(x, chunk, points)
        torch.bmm(points, spectrum, out=products)
        winograd.transform_outputs(products, chunk, results, bias)
    return out


def _filter_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """Gradient (O, C, 3, 3) of the filters that convolved x (N, C, H, W), from that of the result (N, O, H, W)."""
    channels, out_channels = x.shape[1], grad.shape[1]
    winograd, tiling = transforms(), _tiling(x)
    x, grad = _channels_last(x), _channels_last(grad)
    spectrum = _scratch('spectrum', 36, channels, out_channels)
    for chunk in tiling.chunks():
        points = _scratch('points', 36, chunk.count, channels)
        grad_points = _scratch('products', 36, chunk.count, out_channels)
        winograd.transform_inputs(x, chunk, points)
        winograd.transform_gradients(grad, chunk, grad_points)
        # With beta 0, what the memory held before is not read.
        torch.baddbmm(spectrum, points.transpose(1, 2), grad_points, beta=min(chunk.first, 1), out=spectrum)
    return winograd.filter_gradient(spectrum)


def _channels_last(x: Tensor) -> Tensor:
    """Features (N, C, H, W) as contiguous (N, H, W, C), without their history."""
    return x.detach().permute(0, 2, 3, 1).contiguous()
