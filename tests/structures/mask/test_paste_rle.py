"""Masks that are pasted without bitmaps are MMDetection's, bit by bit."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
from mmdet.structures.mask import encode_mask_results
from support.pretended_cuda import PretendedCUDA

from mmdet_sag.structures.mask import paste_masks_as_rle, paste_masks_of_images

NUM_MASKS = 12
property_test = settings(
    max_examples=500, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], database=None
)


def paste_and_encode(probs, boxes, height, width, threshold, whole_image):
    """What FCNMaskHead and encode_mask_results do; empty where that head fails, on boxes beside the image."""
    bitmaps = torch.zeros(len(probs), height, width, dtype=torch.bool)
    for bitmap, prob, box in zip(bitmaps, probs, boxes):
        x1, y1, x2, y2 = box.tolist()
        beside = x2 + 1 < 0 or y2 + 1 < 0 or x1 - 1 > width or y1 - 1 > height
        if beside and not whole_image:
            continue
        pasted, place = _do_paste_mask(prob[None, None], box[None], height, width, skip_empty=not whole_image)
        bitmap[place if place else ...] = pasted[0] >= threshold
    return encode_mask_results(bitmaps.numpy())


def make_probs(kind, size, generator):
    def uniform(*shape):
        return torch.rand(NUM_MASKS, *shape, generator=generator)

    blobs = F.interpolate(uniform(1, 5, 5) - 0.5, size, mode='bicubic', align_corners=False)[:, 0]
    return {
        'blobs': lambda: (20 * blobs).sigmoid(),
        'faint': lambda: 0.5 + 1e-4 * blobs,
        'noise': lambda: uniform(*size),
        'binary': lambda: uniform(*size).round(),
        'steps': lambda: (uniform(*size) * 4).round() / 4,
        'level': lambda: uniform(1, 1).mul(4).round().div(4).expand(-1, *size),
        'half': lambda: torch.full((NUM_MASKS, *size), 0.5),
    }[kind]()


def make_boxes(kind, height, width, generator):
    image = torch.tensor([width, height])
    centres = torch.rand(NUM_MASKS, 2, generator=generator) * image * 1.6 - 0.3 * image
    spread = torch.rand(NUM_MASKS, 2, generator=generator)
    sides = {
        'any': lambda: spread**3 * 2 * image,
        'whole pixels': lambda: (spread * image).round(),
        'below a pixel': lambda: spread**2,
        'no extent': lambda: spread * image * (spread > 0.5),
        'huge': lambda: spread * 1e5,
    }[kind]()
    boxes = torch.cat([centres - sides / 2, centres + sides / 2], dim=1)
    if kind == 'whole pixels':
        boxes = boxes.round()
    return boxes


@property_test
@given(
    seed=st.integers(0, 2**32),
    probs=st.sampled_from(['blobs', 'faint', 'noise', 'binary', 'steps', 'level', 'half']),
    boxes=st.sampled_from(['any', 'whole pixels', 'below a pixel', 'no extent', 'huge']),
    size=st.sampled_from([(28, 28), (28, 28), (14, 28), (7, 7), (1, 1), (56, 56)]),
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    threshold=st.sampled_from([0.5, 0.5, 0.5, 0.3, 0.75, 0.0, 1.0]),
    whole_image=st.booleans(),
)
def test_any_masks_of_any_boxes(seed, probs, boxes, size, height, width, threshold, whole_image):
    generator = torch.Generator().manual_seed(seed)
    probs = make_probs(probs, size, generator)
    boxes = make_boxes(boxes, height, width, generator)
    expected = paste_and_encode(probs, boxes, height, width, threshold, whole_image)
    actual = paste_masks_as_rle(probs, boxes, height, width, threshold, whole_image=whole_image)
    assert list(actual) == expected


@pytest.mark.parametrize(('height', 'width'), [(800, 1333), (1333, 800)])
def test_many_large_masks(height, width, device):
    generator = torch.Generator().manual_seed(0)
    probs = make_probs('blobs', (28, 28), generator)
    boxes = make_boxes('any', height, width, generator)
    # A GPU's samples are rounded as MMDetection's on that GPU are.
    probs, boxes = probs.to(device), boxes.to(device)
    actual = paste_masks_as_rle(probs, boxes, height, width, whole_image=False)
    assert list(actual) == paste_and_encode(probs, boxes, height, width, 0.5, False)
    assert actual.to_tensor().any()


def test_masks_of_images_of_different_sizes_at_once_and_as_a_gpu_finds_them():
    generator = torch.Generator().manual_seed(1)
    sizes, numbers = [(90, 70), (33, 20), (61, 120)], [NUM_MASKS, 0, NUM_MASKS]
    probs = torch.cat([make_probs(kind, (28, 28), generator) for kind in ('blobs', 'faint')])
    boxes = torch.cat(
        [make_boxes(kind, *size, generator) for kind, size in (('any', sizes[0]), ('no extent', sizes[2]))]
    )
    expected = [
        paste_and_encode(*(part.split(numbers)[i] for part in (probs, boxes)), *size, 0.5, False)
        for i, size in enumerate(sizes)
    ]
    assert list(map(list, paste_masks_of_images(probs, boxes, numbers, sizes))) == expected
    with PretendedCUDA() as cuda:
        pretended = probs.to(cuda.device), boxes.to(cuda.device)
        cuda.events.clear()
        found = paste_masks_of_images(*pretended, numbers, sizes, whole_image=False)
    assert list(map(list, found)) == expected
    # The sizes of the images are copied there.
    assert cuda.events.total() == 5 and not cuda.mixed


def test_a_large_mask_that_is_on_the_threshold_everywhere():
    probs, boxes = torch.full((2, 28, 28), 0.5), torch.tensor([[10.2, 20.3, 700.0, 390.5], [0.0, 0.0, 720.0, 400.0]])
    assert list(paste_masks_as_rle(probs, boxes, 400, 720)) == paste_and_encode(probs, boxes, 400, 720, 0.5, False)


@pytest.mark.parametrize('value', [0.0, 1.0])
def test_all_empty_and_all_full_masks(value):
    probs, boxes = torch.full((2, 28, 28), value), torch.tensor([[-30.0, -20.0, 130.0, 120.0], [3.0, 4.0, 50.0, 60.0]])
    masks = paste_masks_as_rle(probs, boxes, 80, 100)
    assert list(masks) == paste_and_encode(probs, boxes, 80, 100, 0.5, False)
    assert masks.to_tensor()[0].all() == bool(value)


def test_half_precision_and_what_is_not_a_number():
    generator = torch.Generator().manual_seed(0)
    probs, boxes = make_probs('blobs', (28, 28), generator), make_boxes('any', 60, 70, generator)
    half = paste_masks_as_rle(probs.bfloat16(), boxes, 60, 70)
    assert list(half) == paste_and_encode(probs.bfloat16(), boxes, 60, 70, 0.5, False)

    probs[0] = float('nan')
    boxes[1] = float('nan')
    masks = paste_masks_as_rle(probs, boxes, 60, 70)
    assert not masks[:2].to_tensor().any()
    assert list(masks[2:]) == paste_and_encode(probs[2:], boxes[2:], 60, 70, 0.5, False)


def test_no_mask():
    masks = paste_masks_as_rle(torch.zeros(0, 28, 28), torch.zeros(0, 4), 60, 70)
    assert masks.shape == (0, 60, 70)
