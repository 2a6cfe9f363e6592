"""Masks by points, against what can be computed by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmdet.structures.mask import BitmapMasks
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from support.tiny_points import build_points

from mmdet_sag.errors import InputError
from mmdet_sag.models import PointCenterMaskHead

SIZE, STRIDE = 64, 4
META = dict(img_shape=(SIZE, SIZE), ori_shape=(SIZE, SIZE), scale_factor=(1.0, 1.0), batch_input_shape=(SIZE, SIZE))


def head(**options) -> PointCenterMaskHead:
    """A head of few channels; its hidden features of the shape branch are what tests give it."""
    settings = dict(in_channels=4, feat_channels=4, num_classes=2, shape_size=8, mask_size=8)
    head = PointCenterMaskHead(**{**settings, **options}, test_cfg=ConfigDict(max_per_img=5))
    return head.eval().requires_grad_(False)


def maps_of(box: tuple[float, float, float, float], label: int = 1, score: float = 0.9) -> tuple[torch.Tensor, ...]:
    """Heatmap, width and height, and offset of one object."""
    side = SIZE // STRIDE
    heatmap, wh, offset = torch.zeros(1, 2, side, side), torch.zeros(1, 2, side, side), torch.zeros(1, 2, side, side)
    x1, y1, x2, y2 = (value / STRIDE for value in box)
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    heatmap[0, label, int(y), int(x)] = score
    wh[0, :, int(y), int(x)] = torch.tensor([x2 - x1, y2 - y1])
    offset[0, :, int(y), int(x)] = torch.tensor([x - int(x), y - int(y)])
    return heatmap, wh, offset


def shaped(head: PointCenterMaskHead, template: torch.Tensor) -> torch.Tensor:
    """Let the shape branch give a template everywhere; its hidden features."""
    head.shape_head[2].weight.zero_()
    head.shape_head[2].bias.copy_(template.flatten())
    return torch.zeros(1, 4, SIZE // STRIDE, SIZE // STRIDE)


def predict(head, maps, shape=None, saliency=None, meta=META, rescale=True) -> InstanceData:
    lists = [[part] for part in (*maps, shape, saliency)]
    (results,) = head.predict_by_feat(*lists, [meta], rescale=rescale)
    return results


def test_a_known_shape_at_a_known_box_is_the_resized_template():
    template = torch.where(torch.rand(8, 8, generator=torch.Generator().manual_seed(0)) > 0.5, 9.0, -9.0)
    own = head(saliency=None)
    results = predict(own, maps_of((10, 20, 42, 52)), shaped(own, template))
    assert results.labels.tolist() == [1]
    torch.testing.assert_close(results.scores, torch.tensor([0.9]))
    torch.testing.assert_close(results.bboxes, torch.tensor([[10.0, 20.0, 42.0, 52.0]]))
    expected = np.zeros((SIZE, SIZE), bool)
    # The box has four pixels per number, in whose middles they are.
    resized = F.interpolate(template.sigmoid()[None, None], (32, 32), mode='bilinear')[0, 0] >= 0.5
    expected[20:52, 10:42] = resized
    inside = np.zeros_like(expected)
    # Around it, the pasted mask falls off to zero, as that of every mask head.
    inside[22:50, 12:40] = True
    found = results.masks.to_ndarray()[0]
    assert expected.sum() > 300
    np.testing.assert_array_equal(found & inside, expected & inside)
    assert not found[~np.pad(np.ones((34, 34), bool), ((19, 11), (9, 21)))].any()


def test_a_shape_is_resized_as_logits_before_the_sigmoid():
    own = head(saliency=None, mask_size=16)
    template = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    shape = shaped(own, template)
    peaks = own.find_peaks(*maps_of((10, 20, 42, 52)))
    probs = own.mask_probs(shape, None, peaks.boxes, peaks.labels, peaks.cells)
    expected = F.interpolate(template[None, None], (16, 16), mode='bilinear')[0, 0].sigmoid()
    torch.testing.assert_close(probs[0, 0], expected)


@pytest.mark.parametrize('saliency', ['class-agnostic', 'class-specific'])
def test_saliency_alone_is_the_map_in_the_box(saliency):
    own = head(shape_size=0, saliency=saliency)
    side = SIZE // STRIDE
    # Linear in x and y, so that bilinear samples of it are known.
    x, y = torch.meshgrid(*[(torch.arange(side) + 0.5) * STRIDE] * 2, indexing='xy')
    channels = torch.stack([x - 2 * y, 0.1 * x + 0.05 * y - 3])[None]
    box = (12.0, 8.0, 44.0, 40.0)
    peaks = own.find_peaks(*maps_of(box))
    saliency_map = channels if saliency == 'class-specific' else channels[:, 1:]
    probs = own.mask_probs(None, saliency_map, peaks.boxes, peaks.labels, peaks.cells)
    points = (torch.arange(8) + 0.5) / 8 * 32
    expected = (0.1 * (12 + points)[None] + 0.05 * (8 + points)[:, None] - 3).sigmoid()
    torch.testing.assert_close(probs[0, 0], expected)


def test_a_mask_is_the_product_of_both_and_gradients_reach_them():
    own = head()
    peaks = own.find_peaks(*maps_of((10, 20, 42, 52)))
    generator = torch.Generator().manual_seed(0)
    features, saliency = (torch.randn(1, c, 16, 16, generator=generator).requires_grad_() for c in (4, 1))
    probs = own.mask_probs(features, saliency, peaks.boxes, peaks.labels, peaks.cells)[0, 0]
    alone = [head(**options).requires_grad_(False) for options in (dict(saliency=None), dict(shape_size=0))]
    alone[0].shape_head.load_state_dict(own.shape_head.state_dict())
    expected = [part.mask_probs(features, saliency, peaks.boxes, peaks.labels, peaks.cells)[0, 0] for part in alone]
    torch.testing.assert_close(probs, expected[0] * expected[1])

    gt_instances = InstanceData(
        bboxes=torch.tensor([[10.0, 20.0, 42.0, 52.0]]),
        labels=torch.tensor([1]),
        masks=BitmapMasks(np.ones((1, SIZE, SIZE), np.uint8), SIZE, SIZE),
    )
    maps = [part.clamp(1e-4) for part in maps_of((10, 20, 42, 52))]
    losses = own.loss_by_feat(*[[part] for part in (*maps, features, saliency)], [gt_instances], [META])
    # The pixel-wise cross-entropy of the product, whose target is 1 everywhere.
    torch.testing.assert_close(losses['loss_mask'], -probs.log().mean())
    losses['loss_mask'].backward()
    # The shape comes from the centre alone.
    at_centre = torch.zeros_like(features, dtype=torch.bool)
    at_centre[0, :, 36 // STRIDE, 26 // STRIDE] = True
    assert torch.equal(features.grad != 0, at_centre)
    inside = saliency.grad[0, 0, 20 // STRIDE : 52 // STRIDE, 12 // STRIDE : 40 // STRIDE]
    assert (inside < 0).all()


def test_peaks_are_those_of_mmdetection():
    own = head()
    own.test_cfg.max_per_img = 20
    generator = torch.Generator().manual_seed(0)
    heatmap, wh, offset = (torch.rand(2, 2, 16, 16, generator=generator) for _ in range(3))
    boxes, labels = own._decode_heatmap(heatmap, wh, offset, (SIZE, SIZE), k=20)
    peaks = own.find_peaks(heatmap, wh, offset)
    torch.testing.assert_close(torch.cat([peaks.boxes, peaks.scores[..., None]], dim=2), boxes)
    torch.testing.assert_close(peaks.labels, labels)


def test_a_border_is_taken_from_boxes_and_masks():
    own = head(shape_size=0)
    saliency = torch.full((1, 1, 16, 16), -9.0)
    saliency[..., 4:12, 4:12] = 9.0
    # An image of 40x48 pixels lies in the middle of 64x64, as RandomCenterCropPad pads it.
    meta = dict(META, ori_shape=(40, 48), border=np.array([12, 52, 8, 56], np.float32))
    del meta['scale_factor']
    results = predict(own, maps_of((4, 16, 48, 48)), saliency=saliency, meta=meta)
    # Clipped to the image.
    torch.testing.assert_close(results.bboxes, torch.tensor([[0.0, 4.0, 40.0, 36.0]]))
    assert results.masks.shape == (1, 40, 48)
    mask = results.masks.to_ndarray()[0]
    # Salient from pixel 16 to 48 of the input, pixel 8 to 40 and 4 to 36 of the image.
    assert mask[6:34, 10:38].all()
    assert not mask[:, :6].any()
    # The same at the original size, in an image that was enlarged twofold.
    meta.update(ori_shape=(20, 24), scale_factor=(2.0, 2.0))
    results = predict(own, maps_of((4, 16, 48, 48)), saliency=saliency, meta=meta)
    torch.testing.assert_close(results.bboxes, torch.tensor([[0.0, 2.0, 20.0, 18.0]]))
    assert results.masks.to_ndarray()[0][3:17, 5:19].all()


def test_a_map_of_another_stride_is_an_error():
    with pytest.raises(InputError, match='pad_size_divisor=32'):
        predict(head(), maps_of((4, 16, 48, 48)), meta=dict(META, batch_input_shape=(60, 64)))


@pytest.mark.parametrize('options', [dict(saliency='both'), dict(saliency=None, shape_size=0)])
def test_a_head_needs_a_branch(options):
    with pytest.raises(InputError, match='saliency'):
        build_points(**options)
