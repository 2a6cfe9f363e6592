"""Objects are pasted as by MMDetection, whatever their masks are."""

import numpy as np
import pytest
import torch
from mmdet.registry import TRANSFORMS
from test_random_center_crop_pad_with_masks import sample

UPPER, LOWER, PASTED = (5, 6, 25, 30), (30, 20, 60, 55), (20, 10, 50, 40)


def paste(kind, boxes, other, polygons, **options):
    results = sample(boxes, polygons)
    results['img'] = results['img'].astype(np.uint8)
    source = sample(other, polygons)
    source['img'] = source['img'].astype(np.uint8) + 100
    np.random.seed(0)
    return TRANSFORMS.build(dict(type=kind, **options))(dict(results, mix_results=[source]))


@pytest.mark.parametrize('selected', [False, True])
@pytest.mark.parametrize('boxes', [[], [UPPER, LOWER]], ids=['into an empty image', 'into objects'])
@pytest.mark.parametrize('other', [[], [PASTED, LOWER]], ids=['nothing', 'objects'])
def test_polygons_are_pasted_as_bitmaps_are(boxes, other, selected):
    expected = paste('CopyPaste', boxes, other, polygons=False, selected=selected)
    found = paste('CopyPasteWithPolygons', boxes, other, polygons=True, selected=selected)
    assert found['img'].dtype == np.uint8
    np.testing.assert_array_equal(found['img'], expected['img'])
    np.testing.assert_array_equal(found['gt_masks'].masks, expected['gt_masks'].masks)
    torch.testing.assert_close(found['gt_bboxes'].tensor, expected['gt_bboxes'].tensor)
    assert found['gt_bboxes_labels'].tolist() == expected['gt_bboxes_labels'].tolist()


def test_a_pasted_object_hides_what_is_below():
    results = paste('CopyPasteWithPolygons', [UPPER, LOWER], [PASTED], polygons=True, selected=False)
    upper, lower, pasted = results['gt_masks'].masks
    assert pasted.sum() == 30 * 30
    assert upper.sum() == 20 * 24 - 5 * 20
    assert lower.sum() == 30 * 35 - 20 * 20
    np.testing.assert_array_equal(results['img'][..., 0], upper + 2 * lower + 101 * pasted)
