import numpy as np
import pytest
from mmdet.registry import TRANSFORMS
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import PolygonMasks
from PIL import Image


def resize(height, width, scale=(1333, 800), **results):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    transform = TRANSFORMS.build(dict(type='ShortSideResize', scale=scale, backend='pillow'))
    return image, transform(dict(img=image, img_shape=(height, width), **results))


@pytest.mark.parametrize(
    ('size', 'scale', 'expected'),
    [
        ((480, 640), (1333, 800), (800, 1066)),
        ((640, 480), (1333, 800), (1066, 800)),
        ((480, 640), (800, 1333), (800, 1066)),
        ((427, 640), (1333, 800), (800, 1199)),
        ((500, 375), (1000, 256), (341, 256)),
        ((512, 512), (1333, 800), (800, 800)),
        # The long side would be 1600: the short one is round(1333 / 2), half to even.
        ((300, 600), (1333, 800), (666, 1332)),
        ((600, 210), (1000, 600), (1000, 350)),
        ((800, 1333), (1333, 800), (800, 1333)),
        ((800, 1001), (1333, 800), (800, 1001)),
        ((2, 9000), (1333, 800), (1, 4500)),
    ],
)
def test_the_short_side_is_exact_and_the_long_one_cut(size, scale, expected):
    _, results = resize(*size, scale=scale)
    assert results['img'].shape[:2] == results['img_shape'] == expected
    assert results['scale_factor'] == (expected[1] / size[1], expected[0] / size[0])


def test_an_image_of_the_size_already_stays():
    image, results = resize(80, 100, scale=(200, 80))
    np.testing.assert_array_equal(results['img'], image)


def test_pixels_are_those_of_pillows_bilinear_filter():
    image, results = resize(48, 64, scale=(200, 80))
    expected = Image.fromarray(image).resize((106, 80), Image.BILINEAR)
    np.testing.assert_array_equal(results['img'], np.asarray(expected))


def test_objects_are_resized_with_the_image():
    box = [16.0, 12.0, 32.0, 48.0]
    polygon = np.array([16.0, 12.0, 32.0, 12.0, 32.0, 48.0])
    _, results = resize(
        48,
        64,
        scale=(200, 80),
        gt_bboxes=HorizontalBoxes(np.array([box], dtype=np.float32)),
        gt_masks=PolygonMasks([[polygon]], 48, 64),
    )
    factor = np.array([106 / 64, 80 / 48])
    np.testing.assert_allclose(results['gt_bboxes'].tensor[0], np.array(box) * np.tile(factor, 2), rtol=1e-6)
    np.testing.assert_allclose(results['gt_masks'].masks[0][0], polygon * np.tile(factor, 3))
    assert (results['gt_masks'].height, results['gt_masks'].width) == (80, 106)


def test_short_sides_of_a_training_are_any_whole_number_of_a_range():
    transform = TRANSFORMS.build(
        dict(type='RandomResize', scale=[(133, 64), (133, 80)], resize_type='ShortSideResize', backend='pillow')
    )
    image = np.zeros((48, 64, 3), dtype=np.uint8)
    np.random.seed(0)
    shapes = {transform(dict(img=image, img_shape=(48, 64)))['img_shape'] for _ in range(300)}
    assert shapes == {(side, side * 64 // 48) for side in range(64, 81)}
