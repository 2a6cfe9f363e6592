"""Masks that stay on their device give the targets that MMDetection's bitmaps give."""

import numpy as np
import torch
from mmdet.models.roi_heads.mask_heads import MaskIoUHead
from mmdet.structures.mask import BitmapMasks

from mmdet_sag.models.roi_heads.mask_heads import CenterMaskIoUHead
from mmdet_sag.structures.mask import TensorMasks


def test_crops_and_shares_are_those_of_bitmaps(device):
    generator = torch.Generator().manual_seed(0)
    bitmaps = torch.rand(5, 40, 60, generator=generator) > 0.4
    bitmaps[4] = False
    ends = torch.rand(60, 2, 2, generator=generator).sort(1).values * 1.4 - 0.2
    rois = (ends * torch.tensor([60, 40])).flatten(1)
    rois = torch.cat([rois, torch.tensor([[60.0, 40.0, 60.0, 40.0], [3.0, 3.0, 3.5, 3.9], [0.0, 0.0, 60.0, 40.0]])])
    inds = torch.randint(5, (len(rois),), generator=generator)
    expected, masks = BitmapMasks(bitmaps.numpy().astype(np.uint8), 40, 60), TensorMasks(bitmaps.to(device))
    cropped = masks.cropped(rois.to(device), inds.to(device), (28, 28)).cpu()
    assert np.array_equal(cropped, expected.crop_and_resize(rois.numpy(), (28, 28), inds.numpy()).to_ndarray())
    shares = masks.shares_inside(rois.to(device), inds.to(device)).cpu()
    head = CenterMaskIoUHead.__new__(CenterMaskIoUHead)
    assert torch.equal(shares, head._get_area_ratio(rois, inds, expected))
    # MMDetection's head fails on an RoI beside the image.
    beside = (rois[:, :2].trunc() >= torch.tensor([60, 40])).any(1)
    assert torch.equal(shares[~beside], MaskIoUHead._get_area_ratio(None, rois[~beside], inds[~beside], expected))
    assert beside.any() and not shares[beside].any()
    assert np.array_equal(masks[1:3].to_ndarray(), bitmaps[1:3]) and len(masks) == 5
