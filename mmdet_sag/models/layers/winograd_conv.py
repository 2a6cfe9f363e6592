import math
from collections.abc import Iterator
from typing import Optional

import numpy as np
import torch
from mmcv.cnn.bricks.wrappers import Conv2d
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable

from .plain_cpu import is_plain_cpu

# Points of the minimal filtering F(4x4, 3x3), besides infinity: of those whose matrices are exact in float32, the ones
# that round least, two thirds of what the usual 0, 1, -1, 1/2, -2 do.
_POINTS = (0, 5 / 8, -5 / 8, 3 / 2, -3 / 2)
# Tiles at a time, about: matrix products need some for their speed, and more of them leave the processor's cache.
_TILES = 160
# With fewer channels, the transforms cost what they save.
_MIN_CHANNELS = 112
# With fewer tiles, transforming filters that may have changed costs what it saves.
_MIN_TRAINED_TILES = 56


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
        self.spectrum = _filter_spectrum(conv.weight.detach().cpu().double()).float() if frozen else None

    @staticmethod
    def suits(module: nn.Module) -> bool:
        """Whether a module is a conv that this class computes, and faster: 3x3, stride 1, 112 channels or more."""
        return (
            type(module) in (nn.Conv2d, Conv2d)
            and (module.kernel_size, module.stride, module.padding, module.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
            and module.groups == 1
            and module.padding_mode == 'zeros'
            and min(module.in_channels, module.out_channels) >= _MIN_CHANNELS
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
        return _Tiling(x).count >= _MIN_TRAINED_TILES


class _TrainedConvolution(Function):
    """The conv with its gradients, each of which is a minimal filtering as well."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _convolve(x, _filter_spectrum(weight), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Optional[Tensor], ...]:
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = _convolve(grad, _filter_spectrum(weight.flip(2, 3).transpose(0, 1)), None)
        if ctx.needs_input_grad[1]:
            grad_weight = _filter_gradient(x, grad)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum((0, 2, 3))
        return grad_x, grad_weight, grad_bias


def _convolve(x: Tensor, spectrum: Tensor, bias: Optional[Tensor]) -> Tensor:
    """Convolve features (N, C, H, W) with transformed filters (36, C, O)."""
    num, channels, height, width = x.shape
    out_channels = spectrum.shape[2]
    tiling = _Tiling(x)
    padded = tiling.pad(x, 1)
    # Not a view, which operators that work in place could not take the gradient of.
    out = torch.empty(num, out_channels, height, width, memory_format=torch.channels_last)
    buffers = x.new_empty(2, 36 * tiling.largest * channels)
    products, outputs = x.new_empty(2, 36 * tiling.largest * out_channels)
    for images, rows, shape in tiling.chunks():
        count = math.prod(shape)
        points = _transform(padded[images, rows.start : rows.stop + 2], shape, buffers)
        product = products[: 36 * count * out_channels].view(36, count, out_channels)
        torch.bmm(points, spectrum, out=product)
        result = outputs[: 16 * count * out_channels].view(16, -1)
        torch.mm(_OUTPUT_MATRIX, product.view(36, -1), out=result)
        _put(result.view(4, 4, *shape, out_channels), out.permute(0, 2, 3, 1)[images, rows], bias)
    return out


def _filter_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """Gradient (O, C, 3, 3) of the filters that convolved x (N, C, H, W), from that of the result (N, O, H, W)."""
    channels, out_channels = x.shape[1], grad.shape[1]
    tiling = _Tiling(x)
    padded, padded_grad = tiling.pad(x, 1), tiling.pad(grad, 0)
    buffers = x.new_empty(2, 36 * tiling.largest * channels)
    outputs, products = x.new_empty(2, 36 * tiling.largest * out_channels)
    spectrum = x.new_zeros(36, channels, out_channels)
    for images, rows, shape in tiling.chunks():
        count = math.prod(shape)
        points = _transform(padded[images, rows.start : rows.stop + 2], shape, buffers)
        result = outputs[: 16 * count * out_channels].view(4, 4, *shape, out_channels)
        result.copy_(_tiles(padded_grad[images, rows], shape, 4))
        product = products[: 36 * count * out_channels].view(36, -1)
        torch.mm(_OUTPUT_MATRIX.t(), result.view(16, -1), out=product)
        torch.baddbmm(spectrum, points.transpose(1, 2), product.view(36, count, out_channels), out=spectrum)
    filters = _FILTER_MATRIX.t().to(x) @ spectrum.view(36, -1)
    return filters.view(3, 3, channels, out_channels).permute(3, 2, 0, 1)


def _filter_spectrum(weight: Tensor) -> Tensor:
    """Transform filters (O, C, 3, 3) to (36, C, O)."""
    out_channels, channels = weight.shape[:2]
    filters = weight.permute(2, 3, 1, 0).reshape(9, -1)
    return (_FILTER_MATRIX.to(weight) @ filters).view(36, channels, out_channels)


class _Tiling:
    """How features (N, C, H, W) are cut into tiles of 4x4 results, and these into chunks.

    Chunks are rows of tiles of an image, or images, so that any image fills them.
    """

    def __init__(self, x: Tensor) -> None:
        self.num, _, self.height, self.width = x.shape
        self.rows, self.columns = -(-self.height // 4), -(-self.width // 4)
        self.chunk_rows = min(max(round(_TILES / self.columns), 1), self.rows)
        self.chunk_images = min(max(_TILES // (self.rows * self.columns), 1), self.num)

    @property
    def count(self) -> int:
        """Tiles of all images."""
        return self.num * self.rows * self.columns

    @property
    def largest(self) -> int:
        """Tiles of the largest chunk."""
        return self.chunk_images * self.chunk_rows * self.columns

    def chunks(self) -> Iterator[tuple[slice, slice, tuple[int, int, int]]]:
        """Images, rows of pixels, and shape (images, rows, columns) of the tiles of each chunk."""
        for image in range(0, self.num, self.chunk_images):
            images = slice(image, min(image + self.chunk_images, self.num))
            for row in range(0, self.rows, self.chunk_rows):
                last = min(row + self.chunk_rows, self.rows)
                yield images, slice(4 * row, 4 * last), (images.stop - image, last - row, self.columns)

    def pad(self, x: Tensor, border: int) -> Tensor:
        """Copy features to (N, H, W, C), with zeros around: a border, and what fills the last tiles."""
        top, left = border, border
        bottom, right = top + self.height, left + self.width
        padded = x.new_empty(self.num, 4 * self.rows + 2 * border, 4 * self.columns + 2 * border, x.shape[1])
        padded[:, top:bottom, left:right] = x.permute(0, 2, 3, 1)
        for part in (padded[:, :top], padded[:, bottom:], padded[:, :, :left], padded[:, :, right:]):
            part.zero_()
        return padded


def _transform(padded: Tensor, shape: tuple[int, int, int], buffers: Tensor) -> Tensor:
    """Transform the tiles of a chunk of inputs to (36, tiles, C), in two buffers that hold the largest chunk."""
    channels = padded.shape[3]
    inputs, points = buffers[:, : 36 * math.prod(shape) * channels]
    inputs.view(6, 6, *shape, channels).copy_(_tiles(padded, shape, 6))
    torch.mm(_INPUT_MATRIX, inputs.view(36, -1), out=points.view(36, -1))
    return points.view(36, -1, channels)


def _tiles(padded: Tensor, shape: tuple[int, int, int], side: int) -> Tensor:
    """View images (n, H, W, C) as tiles (side, side, n, rows, columns, C) that begin at every fourth pixel."""
    image, row, column, channel = padded.stride()
    size = (side, side, *shape, padded.shape[3])
    return padded.as_strided(size, (row, column, image, 4 * row, 4 * column, channel))


def _put(tiles: Tensor, out: Tensor, bias: Optional[Tensor]) -> None:
    """Write tiles (4, 4, n, rows, columns, C) with the bias into the part (n, H, W, C) of the output."""
    num, height, width, channels = out.shape
    _, _, _, rows, columns, _ = tiles.shape
    if (height, width) == (4 * rows, 4 * columns):
        out = out.view(num, rows, 4, columns, 4, channels)
        tiles = tiles.permute(2, 3, 0, 4, 1, 5)
        out.copy_(tiles) if bias is None else torch.add(tiles, bias, out=out)
        return
    for i in range(4):
        for j in range(4):
            part = out[:, i::4, j::4]
            tile = tiles[i, j, :, : part.shape[1], : part.shape[2]]
            part.copy_(tile) if bias is None else torch.add(tile, bias, out=part)


def _matrices(points: tuple[float, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Matrices of one axis by Toom and Cook's construction: A^T (4, 6), G (6, 3) and B^T (6, 6) in float64.

    The outputs of a filter g on inputs d are A^T (G g * B^T d).
    """
    points = np.array(points)
    output_matrix = np.append(np.power.outer(points, range(4)).T, [[0], [0], [0], [1]], axis=1)
    differences = points[:, None] - points + np.eye(len(points))
    filter_matrix = np.append(np.power.outer(points, range(3)) / differences.prod(1)[:, None], [[0, 0, 1]], axis=0)
    polynomials = [np.append(np.poly(np.delete(points, i))[::-1], 0) for i in range(len(points))]
    input_matrix = np.stack([*polynomials, np.poly(points)[::-1]])
    return torch.from_numpy(output_matrix), torch.from_numpy(filter_matrix), torch.from_numpy(input_matrix)


# Of both axes of a flattened tile at once.
_OUTPUT_MATRIX, _FILTER_MATRIX, _INPUT_MATRIX = (torch.kron(matrix, matrix) for matrix in _matrices(_POINTS))
_OUTPUT_MATRIX, _INPUT_MATRIX = _OUTPUT_MATRIX.float(), _INPUT_MATRIX.float()
