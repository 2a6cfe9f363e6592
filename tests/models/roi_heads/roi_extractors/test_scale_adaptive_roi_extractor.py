import pytest
import torch
from mmdet.registry import MODELS
from support.pretended_cuda import PretendedCUDA


def build():
    return MODELS.build(
        dict(
            type='ScaleAdaptiveRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=14, sampling_ratio=0),
            out_channels=4,
            featmap_strides=[8, 16, 32],
        )
    )


@pytest.fixture
def extractor(default_device):
    return build()


def feats(height=128, width=192, images=2):
    return [torch.randn(images, 4, height // s, width // s, requires_grad=True) for s in (8, 16, 32)]


@pytest.mark.parametrize(
    ('share', 'level'), [(1.0, 2), (0.51, 2), (0.5, 1), (0.26, 1), (0.25, 0), (0.01, 0), (0.0, 0), (1.5, 2)]
)
def test_a_roi_gets_its_level_by_its_share_of_the_image(extractor, share, level):
    rois = torch.tensor([[0, 10.0, 10.0, 110.0, 10.0 + 100 * share]])
    assert extractor.map_roi_levels(rois, torch.tensor([100.0 * 100.0])).tolist() == [level]


def test_padding_does_not_count_as_image(extractor):
    rois = torch.tensor([[0, 0.0, 0.0, 60.0, 100.0], [1, 0.0, 0.0, 60.0, 100.0]])
    maps = [torch.full_like(feat, i) for i, feat in enumerate(feats())]
    out = extractor(maps, rois, img_shapes=[(100, 100), (128, 192)])
    assert out[0].mean().item() == pytest.approx(2.0)
    assert out[1].mean().item() == pytest.approx(0.0)


def test_without_shapes_the_padded_size_is_the_image(extractor):
    rois = torch.tensor([[0, 0.0, 0.0, 120.0, 120.0]])
    maps = feats()
    torch.testing.assert_close(extractor(maps, rois), extractor(maps, rois, img_shapes=[(128, 192)] * 2))


def test_no_roi_gives_no_feature_but_a_gradient_to_every_level(extractor):
    maps = feats()
    out = extractor(maps, torch.zeros(0, 5), img_shapes=[(128, 192)] * 2)
    assert out.shape == (0, 4, 14, 14)
    out.sum().backward()
    assert all(feat.grad is not None and not feat.grad.any() for feat in maps)


def test_half_precision_features_get_the_levels_of_full_precision(extractor):
    # 800 x 1333 pixels are more than half precision can count.
    rois = torch.tensor([[0, 0.0, 0.0, 1300.0, 790.0]])
    maps = [torch.full((1, 4, 800 // s, 1344 // s), float(i), dtype=torch.bfloat16) for i, s in enumerate((8, 16, 32))]
    out = extractor(maps, rois, img_shapes=[(800, 1333)])
    assert out.dtype == torch.bfloat16 and out.mean().item() == pytest.approx(2.0)


def test_features_that_half_precision_cannot_sum_stay_finite(extractor):
    # 256 values of 1000 are beyond the largest number of half precision.
    maps = [torch.full((1, 4, 16, 16), 1000.0, dtype=torch.float16, requires_grad=True) for _ in range(3)]
    out = extractor(maps, torch.tensor([[0, 10.0, 10.0, 20.0, 20.0]]), img_shapes=[(128, 128)])
    assert (out == 1000).all()
    out.float().sum().backward()
    assert all(feat.grad is not None and feat.grad.isfinite().all() for feat in maps)


def test_deterministic_training_on_a_gpu_does_without_the_kernel_whose_gradient_is_not(monkeypatch):
    extractor = build()
    rois = torch.tensor([[0, 10.0, 10.0, 60.0, 90.0], [1, -20.0, 3.0, 180.0, 100.0]])
    maps = [feat.detach() for feat in feats()]
    expected = extractor(maps, rois)
    for layer in extractor.roi_layers:
        monkeypatch.setattr(layer, 'forward', None)
    torch.use_deterministic_algorithms(True)
    try:
        with PretendedCUDA() as cuda:
            found = extractor([feat.to(cuda.device) for feat in maps], rois.to(cuda.device)).cpu()
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(found, expected)
