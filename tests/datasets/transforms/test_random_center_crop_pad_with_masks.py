"""Masks are cropped and padded as their images are."""

import numpy as np
import pytest
import torch
from mmdet.registry import TRANSFORMS
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks, PolygonMasks

KIND = dict(type='RandomCenterCropPadWithMasks', mean=[0, 0, 0], std=[1, 1, 1], to_rgb=False)


def sample(boxes: list[tuple[int, int, int, int]], polygons: bool) -> dict:
    """A black image with rectangles, each of a grey of its own, and their ground truth."""
    image = np.zeros((60, 80, 3), np.float32)
    bitmaps = np.zeros((len(boxes), 60, 80), np.uint8)
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        image[y1:y2, x1:x2] = i + 1
        bitmaps[i, y1:y2, x1:x2] = 1
    outlines = [[np.array([x1, y1, x2, y1, x2, y2, x1, y2], float)] for x1, y1, x2, y2 in boxes]
    return dict(
        img=image,
        img_shape=(60, 80),
        gt_bboxes=HorizontalBoxes(np.array(boxes, np.float32).reshape(-1, 4)),
        gt_bboxes_labels=np.arange(len(boxes)) + 10,
        gt_ignore_flags=np.zeros(len(boxes), bool),
        gt_masks=PolygonMasks(outlines, 60, 80) if polygons else BitmapMasks(bitmaps, 60, 80),
    )


@pytest.mark.parametrize('polygons', [False, True], ids=['bitmaps', 'polygons'])
def test_masks_follow_the_image(polygons):
    transform = TRANSFORMS.build(dict(KIND, crop_size=(48, 40), ratios=(0.6, 1.0, 2.0), border=16, test_pad_mode=None))
    np.random.seed(0)
    numbers = set()
    for _ in range(30):
        results = transform(sample([(5, 6, 25, 30), (30, 20, 60, 55), (62, 2, 79, 20)], polygons))
        labels, masks = results['gt_bboxes_labels'], results['gt_masks']
        assert len(masks) == len(labels) == len(results['gt_bboxes']) == len(results['gt_ignore_flags'])
        assert (masks.height, masks.width) == results['img'].shape[:2] == results['img_shape']
        for label, mask, box in zip(labels, masks.masks, results['gt_bboxes'].tensor):
            np.testing.assert_array_equal(mask.astype(bool), results['img'][..., 0] == label - 9)
            y, x = mask.nonzero()
            assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
        numbers.add(len(labels))
    # Some crops lose objects.
    assert len(numbers) > 1


def test_an_image_without_objects():
    transform = TRANSFORMS.build(dict(KIND, crop_size=(48, 40), ratios=(1.0,), border=16, test_pad_mode=None))
    results = transform(sample([], polygons=False))
    assert results['gt_masks'].masks.shape == (0, 40, 48)


def test_an_image_of_a_test_is_padded_on_all_sides():
    transform = TRANSFORMS.build(
        dict(KIND, ratios=None, border=None, test_mode=True, test_pad_mode=['logical_or', 31], test_pad_add_pix=1)
    )
    results = transform(sample([(5, 6, 25, 30)], polygons=False))
    assert results['img'].shape == (64, 96, 3)
    assert results['border'].tolist() == [2, 62, 8, 88]
    torch.testing.assert_close(results['gt_bboxes'].tensor, torch.tensor([[5.0, 6.0, 25.0, 30.0]]))
