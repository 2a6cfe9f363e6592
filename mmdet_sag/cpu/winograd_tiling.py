import math
from collections.abc import Iterator
from typing import NamedTuple

# Tiles at a time, about: matrix products need some for their speed, and more of them leave the processor's cache.
_TILES = 160


class Chunk(NamedTuple):
    """Tiles that are computed at a time: rows of tiles of an image, or images.

    Attributes:
        images: The images.
        rows: The rows of pixels of the results, of which the last may lie beyond the image.
        first: Number of the first tile among those of all images, row by row.
        shape: Number of images, rows and columns of tiles.
    """

    images: slice
    rows: slice
    first: int
    shape: tuple[int, int, int]

    @property
    def count(self) -> int:
        """Number of tiles."""
        return math.prod(self.shape)


class WinogradTiling:
    """How images are cut into tiles of 4x4 results, and these into chunks, which any size of image fills.

    Args:
        num: Images.
        height: Their height in pixels.
        width: Their width in pixels.
    """

    def __init__(self, num: int, height: int, width: int) -> None:
        self.num = num
        self.rows, self.columns = -(-height // 4), -(-width // 4)
        self.chunk_rows = min(max(round(_TILES / self.columns), 1), self.rows)
        self.chunk_images = min(max(_TILES // (self.rows * self.columns), 1), num)

    @property
    def count(self) -> int:
        """Tiles of all images."""
        return self.num * self.rows * self.columns

    def chunks(self) -> Iterator[Chunk]:
        """All tiles, chunk by chunk."""
        for image in range(0, self.num, self.chunk_images):
            images = slice(image, min(image + self.chunk_images, self.num))
            for row in range(0, self.rows, self.chunk_rows):
                last = min(row + self.chunk_rows, self.rows)
                first = (image * self.rows + row) * self.columns
                yield Chunk(images, slice(4 * row, 4 * last), first, (images.stop - image, last - row, self.columns))
