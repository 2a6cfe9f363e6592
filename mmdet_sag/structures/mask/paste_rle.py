from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..transfers import to_device
from .rle_masks import RLEMasks, encode_changes

# Columns of cells, and pixels, that are worked on at once: what fits into a core's cache, and what keeps a GPU busy.
_BUDGETS = dict(cpu=3 << 13, other=1 << 22)
# What half a dozen roundings in float32 can change of a probability, times ten; grows with the mask's resolution.
_TOLERANCE = 1e-4 / 28


class _Axis(NamedTuple):
    """Where the samples of the masks lie along one axis of the image.

    Between the centres of two neighbouring samples is a cell; zeros lie around a mask, so that ``size`` samples have
    ``size + 1`` cells.

    Attributes:
        low: First coordinate of the boxes, shape (n, ), float64.
        cell: Extent of a cell in pixels, shape (n, ), float64.
        edges: First pixel of each cell and, last, the one after the last cell, shape (n, size + 2), int64.
        first: First pixel that may belong to the mask, shape (n, ), int64.
        last: The pixel after the last one, shape (n, ), int64.
        regular: Whether the box has an extent that can be computed with, shape (n, ).
    """

    low: Tensor
    cell: Tensor
    edges: Tensor
    first: Tensor
    last: Tensor
    regular: Tensor


def paste_masks_as_rle(
    probs: Tensor, boxes: Tensor, height: int, width: int, threshold: float = 0.5, whole_image: bool | None = None
) -> RLEMasks:
    """Paste the masks of boxes into an image of a height and width in pixels.

    The other arguments are those of :func:`paste_masks_of_images`.
    """
    return paste_masks_of_images(probs, boxes, [len(probs)], [(height, width)], threshold, whole_image)[0]


def paste_masks_of_images(
    probs: Tensor,
    boxes: Tensor,
    num_per_img: Sequence[int],
    image_sizes: Sequence[tuple[int, int]],
    threshold: float = 0.5,
    whole_image: bool | None = None,
) -> list[RLEMasks]:
    """Paste the masks of boxes into images, binarised and run-length encoded, without any bitmap of an image.

    Bit by bit what MMDetection's ``FCNMaskHead`` and ``encode_mask_results`` give. Between the centres of four
    samples the pasted mask is bilinear: where all four are on one side of the threshold, so are the pixels between
    them; elsewhere, a column of pixels crosses the threshold once between two rows of samples, at a place that is
    computed. Only the few pixels so close to it that float32's rounding decides are sampled, with the operator that
    MMDetection samples all of them with. Time and memory follow the outlines of the masks, not their areas.

    There is no loop over masks, and an accelerator is waited for four times, however many they are.

    Args:
        probs: Mask probabilities of all images, shape (n, h, w), each in [0, 1].
        boxes: x1, y1, x2, y2 in pixels of the image, shape (n, 4). What is off the image is cut.
        num_per_img: Number of masks of each image.
        image_sizes: Height and width of each image in pixels.
        threshold: Lowest probability of a pixel that belongs to a mask, 0 or more.
        whole_image: Whether a mask may reach farther beyond its box than a pixel, which it does if the threshold is
            below 0.5. Not on the CPU and elsewhere, by default, which is what MMDetection does.

    Returns:
        The masks of each image, encoded.
    """
    if whole_image is None:
        whole_image = probs.device.type != 'cpu'
    sizes = np.array([(int(height), int(width)) for height, width in image_sizes]).repeat(num_per_img, axis=0)
    masks = _paste(probs.float(), boxes, sizes, threshold, whole_image) if len(probs) else []
    ends = np.cumsum(num_per_img)
    return [
        RLEMasks(masks[end - number : end], *size, probs.device)
        for end, number, size in zip(ends, num_per_img, image_sizes)
    ]


def _paste(probs: Tensor, boxes: Tensor, sizes: np.ndarray, threshold: float, whole_image: bool) -> list[dict]:
    heights, widths = to_device(torch.from_numpy(sizes), probs.device).unbind(1)
    rows = _axis(boxes[:, 1], boxes[:, 3], probs.shape[1], heights, whole_image)
    columns = _axis(boxes[:, 0], boxes[:, 2], probs.shape[2], widths, whole_image)
    tolerance = max(probs.shape[1:]) * _TOLERANCE
    # With a threshold of 0, a mask does not end where its samples end.
    regular = rows.regular & columns.regular & (tolerance < threshold)

    padded = F.pad(probs, (1, 1, 1, 1))
    corners = (padded[:, :-1, :-1], padded[:, :-1, 1:], padded[:, 1:, :-1], padded[:, 1:, 1:])
    usable = regular[:, None, None]
    inside = reduce(torch.minimum, corners).gt(threshold + tolerance) & usable
    crossing = reduce(torch.maximum, corners).ge(threshold - tolerance) & usable & ~inside
    crossing &= (rows.edges.diff() > 0)[:, :, None] & (columns.edges.diff() > 0)[:, None, :]
    ends = F.pad(inside, (0, 0, 1, 1))
    ends = ends[:, 1:] ^ ends[:, :-1]

    # All sizes that the following depends on, so that an accelerator is asked for them once.
    pixels = columns.edges.diff()
    counts = torch.stack(
        [
            ends.sum((1, 2)),
            (ends.sum(1) * pixels).sum(1),
            crossing.sum((1, 2)),
            (crossing.sum(1) * pixels).sum(1),
            (~regular).long(),
            (columns.last - columns.first) * ~regular,
            ((crossing.sum(1) + 2) * pixels).sum(1),
        ]
    ).cpu()
    budget = _BUDGETS.get(probs.device.type, _BUDGETS['other'])
    _, group_sizes = np.unique(counts[-1].cumsum(0).numpy() // budget, return_counts=True)
    masks = []
    for start, stop in zip(np.cumsum(group_sizes) - group_sizes, np.cumsum(group_sizes)):
        group = slice(int(start), int(stop))
        changes = _changes(
            probs[group],
            boxes[group],
            _Axis(*(part[group] for part in rows)),
            _Axis(*(part[group] for part in columns)),
            regular[group],
            ends[group],
            crossing[group],
            [corner[group] for corner in corners],
            threshold,
            tolerance,
            heights[group],
            int(sizes[group].prod(1).max()),
            counts[:-1, group].sum(1).tolist(),
            budget,
        )
        masks += encode_changes(changes.cpu().numpy(), len(sizes[group]), *sizes[group].T)
    return masks


def _changes(
    probs: Tensor,
    boxes: Tensor,
    rows: _Axis,
    columns: _Axis,
    regular: Tensor,
    ends: Tensor,
    crossing: Tensor,
    corners: Sequence[Tensor],
    threshold: float,
    tolerance: float,
    heights: Tensor,
    none: int,
    counts: list[int],
    budget: int,
) -> Tensor:
    """Pixels at which masks begin or end, column by column.

    A pixel's number is unique among all masks, with room for the end of each image. The pixels are in no order, and
    those that are listed twice cancel, so that neighbouring runs join. ``none`` is the number of no pixel, the end of
    the first image or more.
    """
    num_ends, num_end_columns, num_crossings, num_crossing_columns, num_irregular, num_irregular_columns = counts
    # The upper and lower ends of what is made of whole cells.
    mask, row, column = _nonzero(ends, num_ends)
    item, pixel = _expand(columns.edges[mask, column], columns.edges[mask, column + 1], num_end_columns)
    changes = [(mask * (none + 1) + rows.edges[mask, row])[item] + pixel * heights[mask][item]]
    spans, found = _changes_of_crossings(
        _nonzero(crossing, num_crossings),
        num_crossing_columns,
        corners,
        rows,
        columns,
        threshold,
        tolerance,
        heights,
        none,
    )
    changes += found
    (irregular,) = _nonzero(~regular, num_irregular)
    item, column = _expand(columns.first[irregular], columns.last[irregular], num_irregular_columns)
    mask = irregular[item]
    spans = tuple(torch.cat(pair) for pair in zip(spans, (mask, column, rows.first[mask], rows.last[mask])))
    changes += _changes_of_samples(spans, probs, boxes, threshold, heights, none, budget)
    together = torch.cat(changes)
    return together[together != none]


def _axis(low: Tensor, high: Tensor, size: int, length: Tensor, whole_image: bool) -> _Axis:
    bounds = (torch.zeros_like(low), length.to(low)) if whole_image else (low.floor() - 1, high.ceil() + 1)
    # In the boxes' own type: this is what MMDetection computes.
    first, last = (torch.minimum(bound.clamp(min=0), length.to(low)).nan_to_num(0).long() for bound in bounds)
    last = torch.maximum(first, last)
    low, high = low.double(), high.double()
    cell = (high - low) / size
    regular = (cell > 1e-6) & cell.isfinite()
    low, cell = (torch.where(regular, value, 1.0) for value in (low, cell))
    centres = torch.arange(size + 2, device=low.device, dtype=torch.float64) - 1
    edges = (low[:, None] + (centres + 0.5) * cell[:, None] - 0.5).ceil()
    edges = torch.minimum(torch.maximum(edges, first[:, None]), last[:, None]).long()
    return _Axis(low, cell, edges, first, last, regular)


def _nonzero(chosen: Tensor, count: int) -> Sequence[Tensor]:
    """The ``count`` places where a tensor is true, an index for each dimension; an accelerator is not waited for."""
    if chosen.device.type == 'cpu':
        return chosen.nonzero().unbind(1)
    numbers = torch.arange(1, count + 1, device=chosen.device)
    place = torch.searchsorted(chosen.flatten().cumsum(0), numbers)
    index = []
    for length in reversed(chosen.shape):
        index.append(place % length)
        place = place.div(length, rounding_mode='floor')
    return index[::-1]


def _expand(first: Tensor, last: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """Count from each item's ``first`` to before its ``last``: numbers of the items, and counted numbers, ``total``."""
    counts = last - first
    item = torch.repeat_interleave(counts, output_size=total)
    return item, torch.arange(total, device=item.device) - (counts.cumsum(0) - counts - first)[item]


def _changes_of_crossings(
    crossing: Sequence[Tensor],
    total: int,
    corners: Sequence[Tensor],
    rows: _Axis,
    columns: _Axis,
    threshold: float,
    tolerance: float,
    heights: Tensor,
    none: int,
) -> tuple[tuple[Tensor, ...], list[Tensor]]:
    """What is left to sample in cells that cross the threshold, and the changes of the rest; some of either are empty.

    To sample are mask, column, first row and the row after the last, each of shape (k, ).
    """
    mask, row, column = crossing
    height = heights[mask]
    first_column, first_row = columns.edges[mask, column], rows.edges[mask, row]
    cell, place = _expand(torch.zeros_like(mask), columns.edges[mask, column + 1] - first_column, total)
    # All that follows is counted from the first pixel of a cell, where float32 is precise enough.
    step = 1 / columns.cell[mask]
    start = (first_column + 0.5 - columns.low[mask]) * step - (column - 0.5)
    upper, upper_right, lower, lower_right = (corner[mask, row, column] for corner in corners)
    edges = (upper, upper_right), (lower - upper, lower_right - upper_right)
    lines = [(left + (right - left) * start, (right - left) * step) for left, right in edges]
    # Along the upper edge of a cell, and so from there to the lower edge, probability is linear in the column.
    places = place.float()
    upper, slope = (torch.addcmul(value.float()[cell], slope.float()[cell], places) for value, slope in lines)
    # Level cells never cross, but may lie within the tolerance as a whole.
    slope = slope.masked_fill_(slope == 0, 1e-30)
    rising = slope > 0
    extent = rows.cell[mask]
    start = rows.low[mask] + (row - 0.5) * extent - 0.5 - first_row
    slack = 1e-2 + 1e-6 * rows.cell.amax().float() * (rows.edges.shape[1] - 1)
    slope = extent.float()[cell] / slope
    centre = torch.addcmul(start.float()[cell], threshold - upper, slope)
    spread = slope.abs_().mul_(tolerance).add_(slack)
    last = (rows.edges[mask, row + 1] - first_row).float()[cell]
    near = [(centre - spread).ceil_(), (centre + spread).floor_().add_(1)]
    near = [torch.minimum(bound.clamp_(min=0), last) for bound in near]
    offset = (mask * (none + 1) + first_column * height + first_row)[cell] + place * height[cell]

    run = (torch.where(rising, near[1], 0), torch.where(rising, last, near[0]))
    some = run[1] > run[0]
    changes = [torch.where(some, offset + end.long(), none) for end in run]
    # Bounds of what crosses nowhere may not be numbers.
    left = near[1] > near[0]
    first, last = (first_row[cell] + torch.where(left, bound, 0).long() for bound in near)
    return (mask[cell], first_column[cell] + place, first, last), changes


def _changes_of_samples(
    spans: tuple[Tensor, ...], probs: Tensor, boxes: Tensor, threshold: float, heights: Tensor, none: int, budget: int
) -> list[Tensor]:
    """Changes in vertical spans of pixels (mask, column, first row, row after the last) that are sampled one by one."""
    ends = (spans[3] - spans[2]).cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    borders, totals = [len(ends)], [total]
    if total > budget:
        places = torch.searchsorted(ends, torch.arange(1, total // budget + 1, device=ends.device) * budget).unique()
        borders = [*places.tolist(), len(ends)]
        totals = np.diff([*F.pad(ends, (1, 0))[places].tolist(), total], prepend=0).tolist()
    changes = []
    for begin, end, number in zip([0, *borders], borders, totals):
        if number == 0:
            continue
        mask, column, first, last = (part[begin:end] for part in spans)
        span, row = _expand(first, last, number)
        mask, column = mask[span], column[span]
        member = _sample(probs, boxes, mask, column, row) >= threshold
        pixel = mask * (none + 1) + column * heights[mask] + row
        joined = span[1:] == span[:-1]
        changes.append(torch.where(member & ~F.pad(member[:-1] & joined, (1, 0)), pixel, none))
        changes.append(torch.where(member & ~F.pad(member[1:] & joined, (0, 1)), pixel + 1, none))
    return changes


def _sample(probs: Tensor, boxes: Tensor, mask: Tensor, column: Tensor, row: Tensor) -> Tensor:
    """Probability at pixels, with each rounding of MMDetection's ``_do_paste_mask``."""
    x0, y0, x1, y1 = boxes[mask].unbind(1)
    grid = []
    for pixel, low, high in ((column, x0, x1), (row, y0, y1)):
        position = (pixel.to(torch.float32) + 0.5 - low) / (high - low) * 2 - 1
        grid.append(position.masked_fill(position.isinf(), 0))
    order = mask.argsort(stable=True)
    counts = torch.zeros(len(probs), dtype=torch.long, device=mask.device).index_add_(0, mask, torch.ones_like(mask))
    # Masks with many pixels take several lines of samples, so that the others are not padded to their number.
    length = min(-(-len(mask) // len(probs)), 1024)
    lines = (counts + length - 1) // length
    number = torch.empty_like(mask)
    number[order] = torch.arange(len(mask), device=mask.device)
    number = number - (counts.cumsum(0) - counts)[mask]
    line, place = (lines.cumsum(0) - lines)[mask] + number // length, number % length
    # There are at most so many lines. Asking for their number would mean to wait for an accelerator.
    of_line = torch.arange(len(mask) // length + len(probs), device=mask.device)
    of_mask = torch.searchsorted(lines.cumsum(0), of_line, right=True).clamp(max=len(probs) - 1)
    points = probs.new_zeros(len(of_mask), 1, length, 2)
    points[line, 0, place] = torch.stack(grid, dim=1).to(points)
    return F.grid_sample(probs[of_mask, None], points, align_corners=False)[line, 0, 0, place]
