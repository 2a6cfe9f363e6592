import numpy as np
import pycocotools.mask as mask_utils
import pytest

from mmdet_sag.structures.mask.run_lengths import place_rle


@pytest.mark.parametrize('x, y, h, w', [(0, 0, 12, 17), (3, 2, 5, 6), (11, 0, 12, 6), (16, 11, 1, 1), (0, 7, 5, 17)])
def test_it_is_the_mask_that_a_bitmap_of_the_image_gives(x, y, h, w):
    generator = np.random.default_rng(x + y)
    for bitmap in (generator.random((h, w)) > 0.4, np.ones((h, w), bool), np.zeros((h, w), bool)):
        image = np.zeros((12, 17), np.uint8, order='F')
        image[y : y + h, x : x + w] = bitmap
        assert place_rle(bitmap, x, y, 12, 17) == mask_utils.encode(image)
