import numpy as np
import torch
from mmcv.cnn.bricks.wrappers import Conv2d
from torch import Tensor, nn

from .cpu_inference import is_cpu_inference

# Points of the minimal filtering F(4x4, 3x3), besides infinity: of those whose matrices are exact in float32, the ones
# that round least, two thirds of what the usual 0, 1, -1, 1/2, -2 do.
_POINTS = (0, 5 / 8, -5 / 8, 3 / 2, -3 / 2)
# Tiles at a time, about: matrix products need some for their speed, and more of them leave the processor's cache.
_TILES = 160
# With fewer channels, the transforms cost what they save.
_MIN_CHANNELS = 112


class WinogradConv:
    """A 3x3 conv by Winograd's minimal filtering: a quarter of the multiplications, for inference on a CPU.

    It stands in for the ``forward`` of an ``nn.Conv2d``, whose weights it keeps transformed, four times as large; the
    conv itself stays as it is. The results differ from the conv's by rounding, three times that of the conv itself.
    Other devices, other types than float32, mixed precision and gradients get the conv's own forward: GPUs' libraries
    choose such algorithms by themselves, and processors that are fast in bfloat16 do not need them.
    Source: `Lavin and Gray <https://arxiv.org/abs/1509.09308>`_.

    Args:
        conv: The conv, see :meth:`suits`, its weights loaded.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        self.conv = conv
        output_matrix, filter_matrix, input_matrix = _matrices(_POINTS)
        with torch.no_grad():
            weight = torch.einsum('ia,ocab,jb->ijco', filter_matrix, conv.weight.double().cpu(), filter_matrix)
        self.weight = weight.flatten(0, 1).float().contiguous()
        # Both axes of a flattened tile at once.
        self.input_matrix = torch.kron(input_matrix, input_matrix).float()
        self.output_matrix = torch.kron(output_matrix, output_matrix).float()

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
        if not is_cpu_inference(x) or x.numel() == 0:
            return type(self.conv).forward(self.conv, x)
        num, channels, height, width = x.shape
        out_channels = self.conv.out_channels
        rows, columns = -(-height // 4), -(-width // 4)
        padded = x.new_empty(num, 4 * rows + 2, 4 * columns + 2, channels)
        padded[:, 1 : height + 1, 1 : width + 1] = x.permute(0, 2, 3, 1)
        for border in (padded[:, 0], padded[:, height + 1 :], padded[:, :, 0], padded[:, :, width + 1 :]):
            border.zero_()
        out = x.new_empty(num, height, width, out_channels)
        # Chunks are rows of tiles of an image, or images, so that any image fills them.
        chunk_rows = min(max(round(_TILES / columns), 1), rows)
        chunk_images = max(_TILES // (rows * columns), 1)
        tiles = min(chunk_images, num) * chunk_rows * columns
        inputs, spectrum = x.new_empty(2, 36 * tiles * channels)
        products, outputs = x.new_empty(2, 36 * tiles * out_channels)
        for image in range(0, num, chunk_images):
            images = slice(image, min(image + chunk_images, num))
            for row in range(0, rows, chunk_rows):
                last = min(row + chunk_rows, rows)
                shape = (images.stop - image, last - row, columns)
                count = shape[0] * shape[1] * shape[2]
                tile = inputs[: 36 * count * channels].view(6, 6, *shape, channels)
                tile.copy_(_overlapping_tiles(padded[images, 4 * row : 4 * last + 2], shape))
                transformed = spectrum[: 36 * count * channels].view(36, -1)
                torch.mm(self.input_matrix, tile.view(36, -1), out=transformed)
                product = products[: 36 * count * out_channels].view(36, count, out_channels)
                torch.bmm(transformed.view(36, count, channels), self.weight, out=product)
                result = outputs[: 16 * count * out_channels].view(16, -1)
                torch.mm(self.output_matrix, product.view(36, -1), out=result)
                self._put(result.view(4, 4, *shape, out_channels), out[images, 4 * row : 4 * last])
        return out.permute(0, 3, 1, 2)

    def _put(self, tiles: Tensor, out: Tensor) -> None:
        """Write tiles (4, 4, n, rows, columns, C) with the bias into the part (n, H, W, C) of the output."""
        num, height, width, channels = out.shape
        _, _, _, rows, columns, _ = tiles.shape
        bias = self.conv.bias
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


def _overlapping_tiles(padded: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """View images (n, 4 rows + 2, 4 columns + 2, C) as their tiles (6, 6, n, rows, columns, C)."""
    image, row, column, channel = padded.stride()
    size = (6, 6, *shape, padded.shape[3])
    return padded.as_strided(size, (row, column, image, 4 * row, 4 * column, channel))
