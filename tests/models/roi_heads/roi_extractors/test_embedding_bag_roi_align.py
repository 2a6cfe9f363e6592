import pytest
import torch
from mmcv.ops import RoIAlign

from mmdet_sag.models.roi_heads.roi_extractors.embedding_bag_roi_align import embedding_bag_roi_align

pytestmark = pytest.mark.usefixtures('default_device')

# What a test image's boxes may be: inside, off every side, wider or higher than the image, thin, empty.
ROIS = torch.tensor(
    [
        [0, 10, 10, 60, 50],
        [1, 3.3, 2.7, 5.9, 100.1],
        [0, -30, -40, 20, 25],
        [1, 100, 60, 170, 140],
        [1, -50, -50, 200, 150],
        [0, 200, 200, 260, 250],
        [0, 40, 40, 40, 40],
        [0, 127.5, 95.5, 128, 96],
        [1, -4, -4, 4.5, 3.75],
    ]
)


@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('sampling_ratio', [0, 1, 2, 3])
@pytest.mark.parametrize('output_size', [(14, 14), (3, 5)])
def test_it_is_the_layers_roi_align(output_size, sampling_ratio, aligned):
    layer = RoIAlign(output_size, spatial_scale=1 / 4, sampling_ratio=sampling_ratio, aligned=aligned)
    torch.manual_seed(0)
    feat = torch.randn(2, 6, 24, 32, requires_grad=True)
    corners = (torch.randn(100, 2, 2) * 60 + torch.tensor([64, 48])).sort(1).values.flatten(1)
    rois = torch.cat([ROIS.to(feat), torch.cat([torch.randint(2, (100, 1)), corners], dim=1)])
    actual = embedding_bag_roi_align(layer, feat.contiguous(memory_format=torch.channels_last), rois)
    expected = layer(feat, rois)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    assert actual.is_contiguous(memory_format=torch.channels_last)
    grad = torch.randn_like(expected)
    gradients = [torch.autograd.grad(result, feat, grad)[0] for result in (actual, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-3)


@torch.no_grad()
def test_rois_without_any_sample_are_zero():
    layer = RoIAlign((7, 7), spatial_scale=1 / 4, sampling_ratio=0, aligned=True)
    feat = torch.randn(1, 6, 24, 32).contiguous(memory_format=torch.channels_last)
    rois = torch.tensor([[0.0, 40, 40, 40, 40]])
    assert embedding_bag_roi_align(layer, feat, rois).count_nonzero() == 0
    assert embedding_bag_roi_align(layer, feat, rois[:0]).shape == (0, 6, 7, 7)
