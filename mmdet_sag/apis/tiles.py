"""Prediction of a large image in tiles."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pycocotools.mask as mask_utils
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from ..structures.mask import RLEMasks, place_rle

# Share of a mask that a better detection may cover.
_MAX_COVERED = 0.5


class Tile(NamedTuple):
    """A part of an image in pixels; ``x`` and ``y`` are its left and upper end."""

    x: int
    y: int
    width: int
    height: int


def make_tiles(height: int, width: int, size: int, overlap: float) -> list[Tile]:
    """Cover an image with tiles of equal size.

    ``size`` is the side of a tile, or of the image if that is smaller, and ``overlap`` the least overlap of neighbours,
    as a share of a tile in [0, 1).
    """
    columns, rows = (_starts(length, size, overlap) for length in (width, height))
    return [Tile(x, y, min(size, width), min(size, height)) for y in rows for x in columns]


def merge_tiles(tiles: Sequence[Tile], samples: Sequence[DetDataSample], height: int, width: int) -> DetDataSample:
    """Join the detections of an image's tiles, which may include the full image; masks become run lengths.

    If masks of a class overlap by more than half of the smaller one, the best detection stays: uncut ones are better
    than those that the edge of a tile cuts, then higher scores are better. Without masks, boxes are compared.
    """
    found = [_place(tile, sample.pred_instances, height, width) for tile, sample in zip(tiles, samples)]
    instances = InstanceData.cat([instances for instances, _ in found])
    cut = np.concatenate([cut for _, cut in found])
    if len(instances):
        instances = instances[torch.from_numpy(_keep(instances, cut))]
        # Visualizers expect the highest score first.
        instances = instances[instances.scores.argsort(descending=True, stable=True)]
    merged = DetDataSample(metainfo=dict(ori_shape=(height, width), img_shape=(height, width)))
    merged.pred_instances = instances
    return merged


def _starts(length: int, size: int, overlap: float) -> Iterator[int]:
    last = max(length - size, 0)
    steps = -(-last // max(int(size * (1 - overlap)), 1))
    return [round(last * i / steps) for i in range(steps)] + [last] if steps else [0]


def _place(tile: Tile, pred: InstanceData, height: int, width: int) -> tuple[InstanceData, np.ndarray]:
    """Move the detections of a tile to the image, and find those that the tile cuts."""
    pred = pred.cpu()
    masks: list | None = None
    if 'masks' in pred:
        masks = [_place_mask(mask, tile, height, width) for mask in pred.masks]
    x1, y1, x2, y2 = pred.bboxes.numpy().reshape(-1, 4).T
    cut = (x1 < 2) & (tile.x > 0) | (y1 < 2) & (tile.y > 0)
    cut |= (x2 > tile.width - 2) & (tile.x + tile.width < width)
    cut |= (y2 > tile.height - 2) & (tile.y + tile.height < height)
    placed = InstanceData(**{key: value for key, value in pred.items() if key not in ('bboxes', 'masks')})
    placed.bboxes = pred.bboxes + pred.bboxes.new_tensor([tile.x, tile.y, tile.x, tile.y])
    if masks is not None:
        placed.masks = RLEMasks(masks, height, width)
    return placed, cut


def _place_mask(mask, tile: Tile, height: int, width: int) -> dict:
    bitmap = np.asarray(mask.cpu(), dtype=bool)
    rows, columns = np.flatnonzero(bitmap.any(axis=1)), np.flatnonzero(bitmap.any(axis=0))
    if not len(rows):
        return place_rle(bitmap[:1, :1], tile.x, tile.y, height, width)
    top, left = rows[0], columns[0]
    crop = bitmap[top : rows[-1] + 1, left : columns[-1] + 1]
    return place_rle(crop, tile.x + int(left), tile.y + int(top), height, width)


def _keep(instances: InstanceData, cut: np.ndarray) -> np.ndarray:
    """Return the indices of the detections that stay."""
    scores = instances.get('mask_scores', instances.scores).numpy()
    labels = instances.labels.numpy()
    x1, y1, x2, y2 = instances.bboxes.numpy().astype(np.float64).T
    boxes = np.stack([x1, y1, x2 - x1, y2 - y1], axis=1)
    shapes = [dict(mask) for mask in instances.masks] if 'masks' in instances else None
    kept: list[int] = []
    for i in np.lexsort((-scores, cut)):
        rivals = [k for k in kept if labels[k] == labels[i] and x1[k] < x2[i] and x1[i] < x2[k]]
        rivals = [k for k in rivals if y1[k] < y2[i] and y1[i] < y2[k]]
        if rivals:
            mine, theirs = ([shapes[i]], [shapes[k] for k in rivals]) if shapes else (boxes[[i]], boxes[rivals])
            # With iscrowd, pycocotools returns the covered share of the first.
            covered = mask_utils.iou(mine, theirs, [1] * len(rivals))[0]
            covers = mask_utils.iou(theirs, mine, [1])[:, 0]
            if max(covered.max(), covers.max()) > _MAX_COVERED:
                continue
        kept.append(int(i))
    return np.array(sorted(kept), dtype=np.int64)
