from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .detection_graph import DetectionGraph
from .padded_graph import PaddedGraph


class PreprocessedGraph(nn.Module):
    """A graph that takes images as files hold them: it resizes, normalizes and pads them itself.

    Resizing is a product with two matrices, those of OpenCV's or of Pillow's bilinear filter. The resized image is not
    rounded to whole levels.

    ``settings`` are the metadata's ``preprocessing``, whose ``resize`` has the mode ``fit``, and ``size`` is the height
    and width of the images that ``graph`` gets.
    """

    def __init__(self, graph: DetectionGraph | PaddedGraph, settings: dict, size: Sequence[int]) -> None:
        super().__init__()
        self.unprepared = graph
        self.size = tuple(size)
        self.swaps_channels = settings['bgr_to_rgb']
        self.pad_value = settings['pad_value']
        self.antialias = settings['resize']['backend'] == 'pillow'
        self.register_buffer('mean', torch.tensor(settings['mean']).view(3, 1, 1))
        self.register_buffer('std', torch.tensor(settings['std']).view(3, 1, 1))

    def forward(self, images: Tensor) -> Any:
        """Outputs of ``graph`` for images (N, h, w, 3), blue, green, red, uint8, with ``boxes`` in pixels of these."""
        inputs, image_sizes = self.prepare(images)
        outputs = self.unprepared(inputs, image_sizes)
        given = torch.stack([ones.sum() for ones in _sides(images)])
        scale = (image_sizes[0].float() / given.float()).flip(0).repeat(2)
        return outputs._replace(boxes=outputs.boxes / scale)

    def prepare(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs of ``graph`` for the images of :meth:`forward`: images (N, 3, H, W), and their sizes (N, 2)."""
        (height, width), sides = self.size, _sides(images)
        given = torch.stack([ones.sum() for ones in sides])
        # int(side * min(height / given height, width / given width) + 0.5), in whole numbers.
        by_width = given[1] * height > given[0] * width
        above, below = torch.where(by_width, width, height), torch.where(by_width, given[1], given[0])
        new = (2 * given * above + below).div(2 * below, rounding_mode='floor')
        rows, columns = (self._weights(*pair) for pair in zip(sides, self.size, new))
        resized = (rows @ images.float().flatten(2)).unflatten(2, (-1, 3)).permute(0, 3, 1, 2) @ columns.T
        if self.swaps_channels:
            resized = resized.flip(1)
        inside = [torch.arange(side, device=images.device) < length for side, length in zip(self.size, new)]
        normalized = (resized - self.mean) / self.std
        inputs = torch.where(inside[0][:, None] & inside[1], normalized, self.pad_value)
        return inputs, new.expand(images.shape[0], 2)

    def _weights(self, ones: Tensor, side: int, new: Tensor) -> Tensor:
        """Weights (side, length) of the pixels of a row, one for each of ``ones``, in those of ``new`` pixels."""
        scale = ones.sum().float() / new.float()
        places = (torch.arange(side, device=ones.device) + 0.5)[:, None] * scale - 0.5
        pixels = ones.cumsum(0).float() - 1
        if self.antialias:
            weights = (1 - (pixels - places).abs() / scale.clamp(min=1.0)).clamp(min=0.0)
            return weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-6)
        return (1 - (pixels - places.clamp(min=0.0).minimum(pixels[-1])).abs()).clamp(min=0.0)


def _sides(images: Tensor) -> tuple[Tensor, Tensor]:
    """A 1 for each row and each column of images (N, h, w, 3): every exporter follows these, but not each a size."""
    row, column = images[0, :, 0, 0], images[0, 0, :, 0]
    return torch.ones_like(row, dtype=torch.int64), torch.ones_like(column, dtype=torch.int64)
