import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from mmdet_sag.apis.image_predictor import Tile, make_tiles, merge_tiles


@pytest.mark.parametrize('size, overlap', [(64, 0.25), (100, 0.0), (50, 0.5), (400, 0.2)])
def test_tiles_cover_the_image_and_their_neighbours_share_what_was_asked_for(size, overlap):
    height, width = 210, 333
    tiles = make_tiles(height, width, size, overlap)
    seen = np.zeros((height, width), int)
    for x, y, w, h in tiles:
        assert (w, h) == (min(size, width), min(size, height))
        seen[y : y + h, x : x + w] += 1
    assert seen.min() >= 1
    columns = sorted({tile.x for tile in tiles})
    assert all(right - left <= size * (1 - overlap) for left, right in zip(columns, columns[1:]))
    assert columns[-1] + min(size, width) == width


def prediction(boxes, scores, size, labels=None, with_masks=True):
    """A sample with detections that fill their boxes."""
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    pred = InstanceData(bboxes=boxes, scores=torch.tensor(scores), labels=torch.tensor(labels or [0] * len(boxes)))
    if with_masks:
        masks = torch.zeros((len(boxes), size, size), dtype=torch.bool)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist()):
            mask[y1:y2, x1:x2] = True
        pred.masks = masks
    return DetDataSample(pred_instances=pred)


TILES = (Tile(0, 0, 100, 100), Tile(60, 0, 100, 100))


@pytest.mark.parametrize('with_masks', [True, False])
def test_an_object_that_one_tile_cuts_off_is_that_of_the_tile_which_shows_it_whole(with_masks):
    # Columns 70 to 130: the left tile sees it up to 100, and is surer of it.
    left = prediction([[70, 20, 100, 50]], [0.9], 100, with_masks=with_masks)
    right = prediction([[10, 20, 70, 50]], [0.6], 100, with_masks=with_masks)
    merged = merge_tiles(TILES, [left, right], 100, 160).pred_instances
    assert merged.bboxes.tolist() == [[70, 20, 130, 50]]
    if with_masks:
        (mask,) = merged.masks
        assert mask_utils.toBbox(dict(mask)).tolist() == [70, 20, 60, 30]
        assert mask_utils.area(dict(mask)) == 60 * 30


def test_an_object_in_the_overlap_counts_once_and_other_classes_stay():
    left = prediction([[65, 20, 95, 50], [65, 20, 95, 50]], [0.7, 0.5], 100, [0, 1])
    right = prediction([[6, 20, 35, 50]], [0.8], 100)
    merged = merge_tiles(TILES, [left, right], 100, 160).pred_instances
    assert merged.scores.tolist() == pytest.approx([0.8, 0.5])
    assert merged.labels.tolist() == [0, 1]
    assert merged.bboxes[0].tolist() == [66, 20, 95, 50]


def test_an_object_larger_than_a_tile_is_that_of_the_whole_image():
    pieces = [prediction([[0, 20, 100, 50]], [0.9], 100), prediction([[0, 20, 100, 50]], [0.9], 100)]
    whole = prediction([[2, 20, 158, 50]], [0.5], 160)
    merged = merge_tiles([*TILES, Tile(0, 0, 160, 160)], [*pieces, whole], 160, 160).pred_instances
    assert merged.bboxes.tolist() == [[2, 20, 158, 50]]


def test_nothing_in_any_tile_is_nothing():
    merged = merge_tiles(TILES, [prediction([], [], 100), prediction([], [], 100)], 100, 160).pred_instances
    assert len(merged) == 0
