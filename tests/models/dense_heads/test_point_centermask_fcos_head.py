"""Masks by points beside FCOS, against what can be computed by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmdet.structures.mask import BitmapMasks
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

from mmdet_sag.errors import InputError
from mmdet_sag.models import PointCenterMaskFCOSHead

SIZE, STRIDES = 64, (8, 16)
META = dict(img_shape=(SIZE, SIZE), ori_shape=(SIZE, SIZE), scale_factor=(1.0, 1.0), batch_input_shape=(SIZE, SIZE))
FIRST_LEVEL = (SIZE // STRIDES[0]) ** 2


def head(**options) -> PointCenterMaskFCOSHead:
    """A head of two levels and few channels; its maps are what tests give it."""
    settings = dict(num_classes=2, in_channels=4, feat_channels=4, shape_size=8, mask_size=8, norm_cfg=None)
    levels = dict(strides=STRIDES, regress_ranges=((-1, 32), (32, 1e8)))
    test_cfg = ConfigDict(nms_pre=100, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.6), max_per_img=10)
    return PointCenterMaskFCOSHead(**{**settings, **options}, **levels, test_cfg=test_cfg).requires_grad_(False)


def empty_maps(num_images: int = 1) -> tuple[list[torch.Tensor], ...]:
    """Class logits, distances and centernesses of images without objects."""
    sides = [SIZE // stride for stride in STRIDES]
    return (
        [torch.full((num_images, 2, side, side), -20.0) for side in sides],
        [torch.ones(num_images, 4, side, side) for side in sides],
        [torch.full((num_images, 1, side, side), 20.0) for side in sides],
    )


def place(maps: tuple[list[torch.Tensor], ...], level: int, row: int, column: int, box: tuple[int, ...]) -> int:
    """Let a location of the last image find a box of class 1; the number of the location among those of all levels."""
    cls_scores, bbox_preds, _ = maps
    stride = STRIDES[level]
    x, y = (column + 0.5) * stride, (row + 0.5) * stride
    distances = torch.tensor([x - box[0], y - box[1], box[2] - x, box[3] - y])
    cls_scores[level][-1, 1, row, column] = 4.0 + level
    bbox_preds[level][-1, :, row, column] = distances / stride
    return level * FIRST_LEVEL + row * cls_scores[level].shape[3] + column


def predict(head, maps, shape=None, saliency=None, meta=META, **options) -> list[InstanceData]:
    metas = [meta] * len(maps[0][0])
    return head.predict_by_feat(*maps, [shape], [saliency], batch_img_metas=metas, **options)


def gives(head: PointCenterMaskFCOSHead, template: torch.Tensor) -> None:
    """Let the shape branch give its first hidden feature times a template."""
    head.shape_head[2].bias.zero_()
    head.shape_head[2].weight.zero_()
    head.shape_head[2].weight[:, 0, 0, 0] = template.flatten()


def test_a_detection_has_the_shape_of_its_own_location():
    own, maps = head(saliency=None), empty_maps(num_images=2)
    template = torch.where(torch.rand(8, 8, generator=torch.Generator().manual_seed(0)) > 0.5, 9.0, -9.0)
    gives(own, template)
    shape = torch.zeros(2, 4, FIRST_LEVEL + FIRST_LEVEL // 4)
    shape[1, 0, place(maps, 1, 2, 1, (10, 20, 42, 52))] = 1.0
    shape[1, 0, place(maps, 0, 1, 6, (32, 0, 64, 32))] = -1.0
    none, results = predict(own, maps, shape)
    assert len(none) == 0 and none.masks.shape == (0, SIZE, SIZE)
    torch.testing.assert_close(results.bboxes, torch.tensor([[10.0, 20, 42, 52], [32, 0, 64, 32]]))
    assert results.labels.tolist() == [1, 1]
    torch.testing.assert_close(results.scores, torch.tensor([5.0, 4.0]).sigmoid().sqrt())
    masks = results.masks.to_ndarray()
    for mask, sign, (x, y) in zip(masks, (1, -1), ((10, 20), (32, 0))):
        # The box has four pixels per number; at its edge, a pasted mask falls off to zero.
        expected = F.interpolate((sign * template).sigmoid()[None, None], (32, 32), mode='bilinear')[0, 0] >= 0.5
        np.testing.assert_array_equal(mask[y + 2 : y + 30, x + 2 : x + 30], expected[2:-2, 2:-2])
    # The image was enlarged twofold.
    half = dict(META, ori_shape=(32, 32), scale_factor=(2.0, 2.0))
    _, results = predict(own, maps, shape, meta=half)
    torch.testing.assert_close(results.bboxes, torch.tensor([[5.0, 10, 21, 26], [16, 0, 32, 16]]))
    assert results.masks.shape == (2, 32, 32)
    # Not rescaled, both have the size of the network's input.
    _, results = predict(own, maps, shape, meta=half, rescale=False)
    np.testing.assert_array_equal(results.masks.to_ndarray(), masks)


@pytest.mark.parametrize('saliency', ['class-agnostic', 'class-specific'])
def test_saliency_alone_is_the_finest_map_in_the_clipped_box(saliency):
    own, maps = head(shape_size=0, saliency=saliency), empty_maps(num_images=2)
    place(maps, 1, 1, 1, (-8, 8, 40, 40))
    channels = torch.full((2, 2, SIZE // 8, SIZE // 8), 9.0)
    channels[:, 1, :, 2:] = -9.0
    none, results = predict(own, maps, saliency=channels if saliency == 'class-specific' else channels[:, 1:])
    assert len(none) == 0
    assert results.bboxes.tolist() == [[0, 8, 40, 40]]
    # Salient left of pixel 16, where the map's sign changes.
    columns = results.masks.to_ndarray()[0][10:38, 2:38]
    assert columns[:, :11].all() and not columns[:, 17:].any()


def two_objects() -> InstanceData:
    """Two objects of 24 pixels side by side: the first one fills its box, the second one has an empty mask."""
    masks = np.zeros((2, SIZE, SIZE), np.uint8)
    masks[0] = 1
    boxes = torch.tensor([[4.0, 20, 28, 44], [36, 20, 60, 44]])
    return InstanceData(bboxes=boxes, labels=torch.tensor([1, 0]), masks=BitmapMasks(masks, SIZE, SIZE))


def test_positive_locations_learn_the_mask_of_their_object():
    own = head()
    generator = torch.Generator().manual_seed(0)
    shape, saliency = (
        torch.randn(*size, generator=generator).requires_grad_() for size in ((1, 4, FIRST_LEVEL + 16), (1, 1, 8, 8))
    )
    objects = two_objects()
    losses = own.loss_by_feat(*empty_maps(), [shape], [saliency], [objects], [META])
    points = own.prior_generator.grid_priors([(8, 8), (4, 4)], device='cpu')
    labels, _ = own.get_targets(points, [objects])
    cells = (torch.cat(labels) < 2).nonzero()[:, 0]
    # The finest level is for objects of such a size; both have locations.
    assert len(cells) > 4 and (cells < FIRST_LEVEL).all()
    expected = []
    for cell in cells:
        of_second = int(points[0][cell, 0] > 32)
        parts = objects.bboxes[None, [of_second]], objects.labels[None, [of_second]]
        probs = own.mask_probs(shape, saliency, *parts, cell[None, None])
        expected.append(F.binary_cross_entropy(probs, torch.full_like(probs, 1 - of_second)))
    torch.testing.assert_close(losses['loss_mask'], torch.stack(expected).mean())
    losses['loss_mask'].backward()
    assert (shape.grad != 0).any(dim=1)[0].nonzero()[:, 0].tolist() == cells.tolist()
    assert (saliency.grad[0, 0, 3:5, 1:3] < 0).all() and (saliency.grad[0, 0, 3:5, 5:7] > 0).all()


def test_the_number_of_masks_that_are_learnt_is_limited():
    own = head(max_masks_to_train=3)
    shape = torch.randn(1, 4, FIRST_LEVEL + 16).requires_grad_()
    losses = own.loss_by_feat(*empty_maps(), [shape], [torch.zeros(1, 1, 8, 8)], [two_objects()], [META])
    losses['loss_mask'].backward()
    assert (shape.grad != 0).any(dim=1).sum() == 3


def test_a_map_of_another_stride_and_a_head_without_branch_are_errors():
    with pytest.raises(InputError, match='pad_size_divisor=32'):
        predict(head(), empty_maps(), meta=dict(META, batch_input_shape=(60, 64)))
    with pytest.raises(InputError, match='saliency'):
        head(saliency=None, shape_size=0)
