import pytest
import torch
from mmdet.models.seg_heads import PanopticFPNHead
from mmdet.structures import DetDataSample
from mmengine.structures import PixelData

from mmdet_sag.models import CenterMaskSemanticHead

pytestmark = pytest.mark.usefixtures('default_device')


def features(channels=256):
    torch.manual_seed(0)
    return tuple(torch.randn(1, channels, 64 // 2**i, 64 // 2**i) for i in range(4))


def samples():
    torch.manual_seed(0)
    labels = torch.randint(0, 134, (1, 256, 256))
    return [DetDataSample(gt_sem_seg=PixelData(sem_seg=torch.where(labels == 133, 255, labels)))]


def test_it_has_the_parameters_of_the_reference():
    assert sum(p.numel() for p in CenterMaskSemanticHead().parameters()) == 1630774


def test_the_last_conv_starts_as_he_has_it_or_with_a_given_deviation():
    torch.manual_seed(0)
    for option, std in ((None, (2 / 54) ** 0.5), (0.01, 0.01)):
        head = CenterMaskSemanticHead(logits_std=option)
        head.init_weights()
        assert head.conv_logits.weight.std().item() == pytest.approx(std, rel=0.05)
        assert not head.conv_logits.bias.any()


def test_with_its_options_it_is_the_head_of_mmdetection():
    loss = dict(type='CrossEntropyLoss', ignore_index=255, loss_weight=0.5)
    theirs = PanopticFPNHead(loss_seg=loss)
    ours = CenterMaskSemanticHead(loss_seg=loss, seg_rescale_factor=0.25)
    ours.load_state_dict(theirs.state_dict())
    x = features()
    torch.testing.assert_close(ours(x)['seg_preds'], theirs(x)['seg_preds'])
    torch.testing.assert_close(ours.loss(x, samples())['loss_seg'], theirs.loss(x, samples())['loss_seg'])
    assert CenterMaskSemanticHead().loss_seg.avg_non_ignore


@torch.no_grad()
def test_logits_have_the_size_of_the_image_or_of_the_original_one():
    meta = dict(batch_input_shape=(256, 256), img_shape=(200, 160), ori_shape=(100, 80))
    head = CenterMaskSemanticHead().eval()
    for rescale, size in ((False, (200, 160)), (True, (100, 80))):
        (logits,) = head.predict(features(), [meta], rescale=rescale)
        assert logits.shape == (54, *size)


def test_the_loss_is_float32_with_weights_in_bfloat16():
    head = CenterMaskSemanticHead(in_channels=32, inner_channels=32).bfloat16()
    loss = head.loss(tuple(level.bfloat16() for level in features(32)), samples())['loss_seg']
    loss.backward()
    assert loss.dtype == torch.float32
    assert head.conv_logits.weight.grad.isfinite().all()
