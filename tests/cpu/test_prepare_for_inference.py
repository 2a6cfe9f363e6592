"""A detector that is prepared for inference gives what it gave before."""

from copy import deepcopy

import pytest
import torch
from mmcv.cnn import fuse_conv_bn
from mmdet.models.backbones import DetectoRS_ResNet
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from support.reference import CASES, load_case, make_batch, read_image
from support.tiny import build_tiny
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode

from mmdet_sag.cpu import give_back, prepare_for_inference, prepare_for_training
from mmdet_sag.cpu.replacements import DirectProjection
from mmdet_sag.models.backbones import TIMMBackbone
from mmdet_sag.models.backbones.vovnet import OSABlock


@pytest.mark.parametrize('name', CASES)
@torch.inference_mode()
def test_results_are_those_of_the_plain_model(name):
    model = load_case(name).model.eval()
    plain = model.test_step(make_batch([read_image()]))[0].pred_instances
    state = {key: value.clone() for key, value in model.state_dict().items()}
    prepare_for_inference(model)
    fast = model.test_step(make_batch([read_image()]))[0].pred_instances
    # Detections whose scores are equal up to rounding may change places.
    boxes_of_classes = [torch.cat([d.bboxes, 1000 * d.labels[:, None]], dim=1) for d in (plain, fast)]
    order = torch.cdist(*boxes_of_classes, compute_mode='donot_use_mm_for_euclid_dist').argmin(1)
    assert order.sort().values.tolist() == list(range(len(plain)))
    fast = fast[order]
    for key in ('scores', 'mask_scores'):
        torch.testing.assert_close(fast[key], plain[key], rtol=0, atol=1e-4)
    torch.testing.assert_close(fast.bboxes, plain.bboxes, rtol=0, atol=0.01)
    assert (fast.labels == plain.labels).all()
    assert (fast.masks.to_tensor() != plain.masks.to_tensor()).float().mean() < 1e-4
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@torch.no_grad()
def test_batch_norms_are_gone_and_come_back():
    model = build_tiny().eval()
    called = []
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_hook(lambda *_: called.append(1))
    image = torch.rand(1, 3, 64, 64)
    expected = model.extract_feat(image)
    assert called
    called.clear()
    prepare_for_inference(model)
    for actual, level in zip(model.extract_feat(image), expected):
        torch.testing.assert_close(actual, level, rtol=1e-4, atol=1e-4)
        assert actual.shape[2] == 1 or actual.is_contiguous(memory_format=torch.channels_last)
    assert not called
    give_back(model)
    model.extract_feat(image)
    assert called


# Norms with an activation; a norm of the sum of two branches; convs that standardise their weights.
@pytest.mark.parametrize('name', ['tf_efficientnet_lite0', 'repvit_m0_9', 'nf_regnet_b0', 'resnet18'])
@torch.no_grad()
def test_batch_norms_of_timm_do_what_they_did(name):
    pytest.importorskip('timm')
    model = build_tiny()
    model.neck = None
    model.backbone = TIMMBackbone(name, out_indices=(-1,), pretrained=False)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    model.eval()
    image = torch.rand(1, 3, 64, 64)
    (expected,) = model.extract_feat(image)
    prepare_for_inference(model)
    (actual,) = model.extract_feat(image)
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3 * expected.abs().max())


@pytest.mark.parametrize('sac', [None, dict(type='SAC', use_deform=False)])
@torch.no_grad()
def test_convs_that_standardise_their_weights_keep_their_batch_norms(sac):
    model = build_tiny()
    model.neck = None
    stages = (False, True, True, True)
    conv = dict(type='ConvAWS')
    model.backbone = DetectoRS_ResNet(depth=50, base_channels=8, sac=sac, stage_with_sac=stages, conv_cfg=conv)
    model.eval()
    for module in model.backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2)
    image = torch.rand(1, 3, 128, 128)
    expected = model.extract_feat(image)
    prepare_for_inference(model)
    for actual, level in zip(model.extract_feat(image), expected):
        torch.testing.assert_close(actual, level, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_masks_of_the_predicted_class_are_those_among_all(num_rois=7):
    head = build_tiny().roi_head.mask_head.eval()
    feats, labels = torch.randn(num_rois, 32, 14, 14), torch.arange(num_rois) % 3
    expected = head(feats)[torch.arange(num_rois), labels][:, None]
    torch.testing.assert_close(head.forward_of_class(feats, labels), expected, rtol=1e-5, atol=1e-5)
    channels_last = feats.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(head.forward_of_class(channels_last, labels), expected, rtol=1e-5, atol=1e-5)


def test_the_hook_prepares_the_weights_that_are_tested_and_gives_the_model_back():
    hook = HOOKS.build(dict(type='FastInferenceHook', channels_last=False))
    runner = Runner.__new__(Runner)
    runner.model = build_tiny().eval()
    torch.nn.init.constant_(runner.model.neck.fpn_convs[0].conv.weight, 0.0)
    hook.before_test_epoch(runner)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        finest = runner.model.extract_feat(image)[0]
    torch.testing.assert_close(
        finest, runner.model.neck.fpn_convs[0].conv.bias[:, None, None].expand_as(finest[0])[None]
    )
    hook.after_test_epoch(runner)
    torch.nn.init.constant_(runner.model.neck.fpn_convs[0].conv.bias, 7.0)
    with torch.no_grad():
        assert (runner.model.extract_feat(image)[0] == 7).all()


@pytest.mark.parametrize('folded', [True, False])
@torch.inference_mode()
def test_blocks_of_vovnet_are_projected_without_a_concatenation(folded):
    block = OSABlock(16, 8, 24, num_convs=3).eval()
    if folded:
        fuse_conv_bn(block)
    x = torch.randn(2, 16, 9, 7).contiguous(memory_format=torch.channels_last)
    with CountedConcatenations() as counted:
        expected = block(x)
        assert counted.concatenations == 1
        DirectProjection(block).install()
        torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)
    assert counted.concatenations == 1


def test_a_copy_of_a_prepared_detector_is_given_back_alone():
    model = build_tiny().eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        expected = model.extract_feat(image)
        prepare_for_inference(model)
        copy = deepcopy(model)
        give_back(copy)
        for prepared, plain, level in zip(model.extract_feat(image), copy.extract_feat(image), expected):
            assert torch.equal(plain, level)
            torch.testing.assert_close(prepared, level, rtol=1e-4, atol=1e-4)


def test_training_goes_on_after_a_test():
    model = build_tiny()
    with torch.inference_mode():
        prepare_for_inference(model.eval())
        give_back(model)
    prepare_for_training(model.train())
    sum(feat.sum() for feat in model.extract_feat(torch.rand(1, 3, 64, 64))).backward()
    torch.optim.AdamW(model.parameters(), fused=True).step()


class CountedConcatenations(TorchDispatchMode):
    """Counts the concatenations among the operators that run."""

    concatenations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.concatenations += func is torch.ops.aten.cat.default
        return func(*args, **(kwargs or {}))
