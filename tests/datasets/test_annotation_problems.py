import numpy as np
import pycocotools.mask as mask_utils
import pytest

from mmdet_sag.datasets.annotation_problems import rle_problem

IMAGE = dict(height=37, width=53)


def compressed(mask):
    rle = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))
    return dict(size=rle['size'], counts=rle['counts'].decode())


@pytest.mark.parametrize('seed', range(20))
def test_compressed_masks_of_any_content_are_sound(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((37, 53)) < rng.choice([0.001, 0.3, 0.999])
    mask[rng.integers(37), rng.integers(53)] = True
    assert rle_problem(compressed(mask), IMAGE, decode=True) is None
    mask[:20] = rng.random() < 0.5
    mask[20:] = True
    assert rle_problem(compressed(mask), IMAGE, decode=True) is None


def test_a_compressed_mask_without_a_pixel_is_empty():
    assert rle_problem(compressed(np.zeros((37, 53))), IMAGE, decode=True) == 'empty-mask'


@pytest.mark.parametrize('shape', [(36, 53), (37, 54), (480, 640)])
def test_runs_of_another_number_of_pixels_are_never_given_to_pycocotools(shape):
    rle = dict(compressed(np.tri(*shape)), size=[37, 53])
    assert rle_problem(rle, IMAGE, decode=True) == 'undecodable-rle'


@pytest.mark.parametrize('cut', range(1, 8))
def test_a_string_that_was_cut_off_is_found(cut):
    rle = compressed(np.tri(37, 53))
    rle['counts'] = rle['counts'][:-cut]
    assert rle_problem(rle, IMAGE, decode=True) == 'undecodable-rle'
