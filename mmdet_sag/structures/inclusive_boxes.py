"""The box convention of CenterMask's first implementation: a box ends at its last pixel.

Its width is x2 - x1 + 1, and an image's last pixels are width - 1 and height - 1. ``inclusive_boxes=True`` of
:class:`CenterMask` selects it for all parts of the model. MMDetection's boxes, the default, end after their last pixel.
Ground truth and results always have MMDetection's boxes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def clip_boxes(boxes: Tensor, image_sizes: Tensor, inclusive: bool = False) -> Tensor:
    """Clip boxes (..., 4) to images of (height, width) ``image_sizes`` (..., 2)."""
    limits = (image_sizes.to(boxes) - int(inclusive)).flip(-1)
    return torch.minimum(boxes.clamp(min=0), torch.cat([limits, limits], dim=-1))


def not_empty(boxes: Tensor, inclusive: bool = False) -> Tensor:
    """Whether boxes (..., 4) have an area, shape (...)."""
    return (boxes[..., 2:] + int(inclusive) > boxes[..., :2]).all(dim=-1)


def to_inclusive(boxes: Tensor, scale_factor: tuple[float, float]) -> Tensor:
    """Let MMDetection's boxes (n, 4) end one pixel of the original image earlier, but not before they begin.

    ``scale_factor`` is the size of such a pixel, (width, height), in pixels of the network's input.
    """
    ends = torch.maximum(boxes[:, 2:] - boxes.new_tensor(scale_factor), boxes[:, :2])
    return torch.cat([boxes[:, :2], ends], dim=1)


def to_exclusive(boxes: Tensor) -> Tensor:
    """Let boxes (n, 4) in pixels of the original image end one pixel later, as MMDetection's do."""
    return boxes + boxes.new_tensor([0, 0, 1, 1])


def pad_masks(masks: Tensor, boxes: Tensor, value: float) -> tuple[Tensor, Tensor]:
    """Pad masks (n, ..., h, w) by a ring of samples, and enlarge their inclusive boxes to the pixels that these touch.

    Sampled at the centres of these pixels, the masks equal those resized to the pixels of their boxes (n, 4), which are
    of the original image. ``value`` is the mask's outside: 0 for probabilities, minus infinity for logits.

    Returns:
        Masks of shape (n, ..., h + 2, w + 2), and boxes of shape (n, 4) that end after their last pixel.
    """
    height, width = masks.shape[-2:]
    scale = boxes.new_tensor([(width + 2) / width, (height + 2) / height])
    half_size = (boxes[:, 2:] - boxes[:, :2]) * 0.5 * scale
    center = (boxes[:, 2:] + boxes[:, :2]) * 0.5
    first, last = (center - half_size).trunc(), (center + half_size).trunc()
    return F.pad(masks, (1, 1, 1, 1), value=value), torch.cat([first, last + 1], dim=1)
