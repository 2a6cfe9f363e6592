"""The transforms of Winograd's minimal filtering F(4x4, 3x3), as products with matrices.

Source: `Lavin and Gray <https://arxiv.org/abs/1509.09308>`_.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Points of the filtering, besides 0, their negatives and infinity: of those whose matrices are exact in float32, the
# ones that round least, two thirds of what the usual 1 and 1/2 or 2 do.
POINTS = (5 / 8, 3 / 2)
# Tiles at a time, about: matrix products need some for their speed, and more of them leave the processor's cache.
_TILES = 160
# With fewer channels, the transforms cost what they save.
MIN_CHANNELS = 112
# With fewer tiles, transforming filters that may have changed costs what it saves.
MIN_TRAINED_TILES = 56


class Chunk(NamedTuple):
    """Tiles of 4x4 results that are computed at a time: rows of tiles of an image, or images.

    ``rows`` are those of pixels of the results, the last of which may lie beyond the image; ``first`` is the number of
    the first tile among those of all images, row by row; ``shape`` the number of images, rows and columns of tiles.
    """

    images: slice
    rows: slice
    first: int
    shape: tuple[int, int, int]

    @property
    def count(self) -> int:
        """Number of tiles."""
        return math.prod(self.shape)


def chunks(num: int, height: int, width: int) -> Iterator[Chunk]:
    """Cut images of any size into chunks of about 160 tiles."""
    rows, columns = -(-height // 4), -(-width // 4)
    most_rows = min(max(round(_TILES / columns), 1), rows)
    most_images = min(max(_TILES // (rows * columns), 1), num)
    for image in range(0, num, most_images):
        images = slice(image, min(image + most_images, num))
        for row in range(0, rows, most_rows):
            last = min(row + most_rows, rows)
            first = (image * rows + row) * columns
            yield Chunk(images, slice(4 * row, 4 * last), first, (images.stop - image, last - row, columns))


def transform_filters(weight: Tensor, filters: Tensor, rotate: bool = False) -> None:
    """Transform filters (O, C, 3, 3), or filters rotated by 180 degrees, to (36, O, C)."""
    matrix = _FILTER_MATRIX.flip(1) if rotate else _FILTER_MATRIX
    torch.mm(matrix.to(weight), weight.reshape(-1, 9).t(), out=filters.view(36, -1))


def filter_gradient(filters: Tensor) -> Tensor:
    """Gradient (O, C, 3, 3) of filters from that of the transformed ones (36, O, C)."""
    taps = _FILTER_MATRIX.t().to(filters) @ filters.view(36, -1)
    return taps.t().reshape(*filters.shape[1:], 3, 3)


def transform_inputs(x: Tensor, chunk: Chunk, points: Tensor) -> None:
    """Transform the 6x6 inputs of a chunk's tiles, in images (N, H, W, C), to points (36, tiles, C)."""
    _matrix_product(_INPUT_MATRIX, _tiles(x, chunk, 1), points)


def transform_gradients(grad: Tensor, chunk: Chunk, points: Tensor) -> None:
    """Transform the 4x4 gradients of a chunk's tiles, in images (N, H, W, C), to points (36, tiles, C)."""
    _matrix_product(_OUTPUT_MATRIX.t(), _tiles(grad, chunk, 0), points)


def transform_outputs(points: Tensor, chunk: Chunk, out: Tensor, bias: Tensor | None) -> None:
    """Transform points (36, tiles, C) to the results of a chunk's tiles, in images (N, H, W, C), and add the bias."""
    tiles = (_OUTPUT_MATRIX @ points.view(36, -1)).view(4, 4, *chunk.shape, -1)
    out = out[chunk.images, chunk.rows]
    for i in range(4):
        for j in range(4):
            part = out[:, i::4, j::4]
            tile = tiles[i, j, :, : part.shape[1], : part.shape[2]]
            part.copy_(tile) if bias is None else torch.add(tile, bias, out=part)


def _matrix_product(matrix: Tensor, tiles: Tensor, points: Tensor) -> None:
    torch.mm(matrix, tiles.reshape(matrix.shape[1], -1), out=points.view(36, -1))


def _tiles(x: Tensor, chunk: Chunk, border: int) -> Tensor:
    """View a chunk's tiles, with a border of pixels around, as (side, side, images, rows, columns, C)."""
    _, height, width, channels = x.shape
    images, rows, columns = chunk.shape
    top, bottom = chunk.rows.start - border, chunk.rows.stop + border
    x = x[chunk.images, max(top, 0) : bottom]
    right = 4 * columns + border - width
    x = F.pad(x, (0, 0, border, right, max(-top, 0), max(bottom - height, 0)))
    image, row, column, channel = x.stride()
    size = (4 + 2 * border, 4 + 2 * border, images, rows, columns, channels)
    return x.as_strided(size, (row, column, image, 4 * row, 4 * column, channel), x.storage_offset())


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
_OUTPUT_MATRIX, _FILTER_MATRIX, _INPUT_MATRIX = (
    torch.kron(matrix, matrix) for matrix in _matrices((0, POINTS[0], -POINTS[0], POINTS[1], -POINTS[1]))
)
_OUTPUT_MATRIX, _INPUT_MATRIX = _OUTPUT_MATRIX.float(), _INPUT_MATRIX.float()
