"""RoIAlign as an embedding bag: fast on channels-last features of a CPU, and deterministic on CUDA."""

import torch
import torch.nn.functional as F
from mmcv.ops import RoIAlign
from torch import Tensor

# RoIs at a time: the indices of their pixels take memory in proportion to the largest of them.
_ROIS = 16


def embedding_bag_roi_align(layer: RoIAlign, feat: Tensor, rois: Tensor) -> Tensor:
    """Run an averaging RoIAlign on a level's features (N, C, H, W), best channels-last ones.

    RoIs (n, 5) are image index, x1, y1, x2, y2 in pixels of the network's input; their features, channels last in
    memory, have the shape (n, C, *output_size).
    """
    # As in RoIAlign, which has no gradient of RoIs.
    rois = rois.detach()
    num, channels, height, width = feat.shape
    pixels = feat.permute(0, 2, 3, 1).reshape(num * height * width, channels)
    bins_y, bins_x = layer.output_size
    out = feat.new_empty(len(rois), bins_y, bins_x, channels)
    # RoIs of a size together, so that a large one does not make the bags of small ones large.
    by_size = (rois[:, 3:] - rois[:, 1:3]).amax(1).argsort()
    for chunk in by_size.split(_ROIS) if len(rois) else ():
        first = rois[chunk, 0].long() * (height * width)
        x, weight_x = _bins(rois[chunk, 1], rois[chunk, 3], bins_x, width, layer)
        y, weight_y = _bins(rois[chunk, 2], rois[chunk, 4], bins_y, height, layer)
        # (RoI, bin in y, bin in x, pixel in y, pixel in x)
        index = first.view(-1, 1, 1, 1, 1) + y[:, :, None, :, None] * width + x[:, None, :, None, :]
        weight = weight_y[:, :, None, :, None] * weight_x[:, None, :, None, :]
        index, weight = index.flatten(0, 2).flatten(1), weight.flatten(0, 2).flatten(1)
        bags = F.embedding_bag(index, pixels, mode='sum', per_sample_weights=weight)
        out[chunk] = bags.view(len(chunk), bins_y, bins_x, channels)
    return out.permute(0, 3, 1, 2)


def _bins(start: Tensor, end: Tensor, bins: int, length: int, layer: RoIAlign) -> tuple[Tensor, Tensor]:
    """Pixels along an axis that the bins of RoIs read, and their weights: two tensors (n, bins, pixels)."""
    start = start * layer.spatial_scale - 0.5 * layer.aligned
    size = end * layer.spatial_scale - 0.5 * layer.aligned - start
    if not layer.aligned:
        size = size.clamp(min=1)
    step = size / bins
    samples = torch.full_like(step, layer.sampling_ratio) if layer.sampling_ratio > 0 else step.ceil().clamp(min=0)
    # One, uncounted, where no RoI has any.
    sample = torch.arange(max(int(samples.max()), 1), device=start.device)
    spacing = step / samples.clamp(min=1)
    position = start.view(-1, 1, 1) + torch.arange(bins, device=start.device).view(-1, 1) * step.view(-1, 1, 1)
    position = position + (sample + 0.5) * spacing.view(-1, 1, 1)
    counts = (sample < samples.view(-1, 1, 1)) & (position >= -1) & (position <= length)
    share = counts / samples.clamp(min=1).view(-1, 1, 1)
    # A sample off the image by less than a pixel counts as one on its border.
    position = position.clamp(min=0, max=length - 1)
    first = torch.where(counts, position, length).floor().amin(-1, keepdim=True)
    last = torch.where(counts, position, 0).floor().amax(-1, keepdim=True) + 1
    reach = max(int((last - first).max()), 0) + 1
    pixel = first + torch.arange(reach, device=start.device)
    distance = (position[..., None] - pixel[:, :, None]).abs()
    weight = ((1 - distance).clamp(min=0) * share[..., None]).sum(2)
    return pixel.clamp(max=length - 1).long(), weight
