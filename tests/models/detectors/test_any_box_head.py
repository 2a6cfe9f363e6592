"""The mask branch behind the box heads and backbones that configs/centermask_any/README.md lists."""

import copy
import re
from importlib.util import find_spec
from unittest.mock import patch

import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.logging import MessageHub
from mmengine.structures import InstanceData
from support.pretended_cuda import PretendedCUDA
from support.tiny_box_heads import HEADS, MAX_PER_IMG, NUM_CLASSES, PAGE, RESNET, tiny, tiny_config
from support.tiny_training import CLASSES, assert_resumes_bit_by_bit, rectangles_config, write_rectangles

BACKBONES = re.findall(r'^\| `dict\((.*)\)` \| (.*) \|$', PAGE, flags=re.MULTILINE)


def check(model: torch.nn.Module, device: str) -> None:
    """One training step and one prediction."""
    model.to(device)
    batch = demo_mm_inputs(2, [[3, 96, 96], [3, 64, 90]], num_classes=NUM_CLASSES, with_mask=True)
    with patch.object(model.roi_head, 'loss', wraps=model.roi_head.loss) as roi_head_loss:
        losses = model(**model.data_preprocessor(copy.deepcopy(batch), True), mode='loss')
    feats, proposals_list, samples = roi_head_loss.call_args.args
    loss, _ = model.parse_losses(losses)
    loss.backward()
    assert loss.isfinite()
    assert losses['loss_mask'] > 0
    assert 'loss_mask_iou' in losses
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    for sample in batch['data_samples']:
        sample.set_metainfo(dict(scale_factor=(1.0, 1.0)))
    model.eval()
    with torch.no_grad():
        expected = model.bbox_head.predict_by_feat(
            *model.bbox_head(feats), batch_img_metas=[s.metainfo for s in samples], cfg=model.train_cfg.proposal
        )
        for proposals, detections in zip(proposals_list, expected):
            torch.testing.assert_close(proposals.bboxes, detections.bboxes)
        samples = model(**model.data_preprocessor(batch, False), mode='predict')
    for sample in samples:
        results = sample.pred_instances
        assert 0 < len(results) <= MAX_PER_IMG
        assert len(results.masks) == len(results.mask_scores) == len(results)


@pytest.mark.parametrize('name', HEADS)
def test_it_trains_and_predicts_with(name, device):
    if name == 'PAA' and find_spec('sklearn') is None:
        pytest.skip('needs scikit-learn')
    # As the runner sets it: TOOD changes its assigner after some epochs.
    MessageHub.get_current_instance().update_info('epoch', 0)
    check(tiny(HEADS[name]), device)


@pytest.mark.parametrize('name', HEADS)
def test_an_object_without_area_teaches_no_box(name):
    # A crop may leave such a box of an object, and a flip puts it at the right border.
    if name == 'PAA' and find_spec('sklearn') is None:
        pytest.skip('needs scikit-learn')
    MessageHub.get_current_instance().update_info('epoch', 0)
    model = tiny(HEADS[name])
    losses = []
    for boxes in ([[10.0, 20, 70, 90]], [[10.0, 20, 70, 90], [0, 0, 0, 0], [96, 0, 96, 0]]):
        batch = demo_mm_inputs(2, [[3, 96, 96], [3, 96, 90]], num_classes=NUM_CLASSES)
        for sample in batch['data_samples']:
            sample.gt_instances = InstanceData(bboxes=torch.tensor(boxes), labels=torch.zeros(len(boxes)).long())
        torch.manual_seed(0)
        with patch.object(model.roi_head, 'loss', return_value={}):
            losses.append(model(**model.data_preprocessor(batch, True), mode='loss'))
    torch.testing.assert_close(*losses)


@torch.no_grad()
def test_reppoints_trains_on_a_gpu():
    # MMDetection's own assigner looks up CUDA indices in a tensor of the CPU.
    batch = demo_mm_inputs(2, [[3, 96, 96], [3, 64, 90]], num_classes=NUM_CLASSES, with_mask=True)
    with PretendedCUDA() as cuda:
        model = cuda.move(tiny(HEADS['RepPoints']))
        losses = model(**model.data_preprocessor(batch, True), mode='loss')
        assert sum(losses['loss_pts_init']).item() > 0 and not cuda.mixed


@pytest.mark.parametrize(('backbone', 'channels'), BACKBONES)
def test_it_trains_and_predicts_on(backbone, channels, device):
    model = tiny(HEADS['ATSS'], backbone=eval(f'dict({backbone})'), channels=[int(c) for c in channels.split(', ')])
    check(model, device)


@pytest.mark.parametrize(
    ('name', 'levels', 'options'),
    [
        ('GFL', 3, dict(anchor_generator=dict(strides=[8, 16, 32]))),
        ('FCOS', 3, dict(strides=[8, 16, 32], regress_ranges=((-1, 64), (64, 128), (128, 1e8)), norm_on_bbox=True)),
        ('RTMDet', 5, dict(anchor_generator=dict(strides=[8, 16, 32, 64, 128]))),
    ],
)
def test_another_number_of_levels(name, levels, options, device):
    cfg = get_config(f'mmdet::{HEADS[name]}').model.bbox_head
    merged = Config(dict(head=cfg))
    merged.merge_from_dict(dict(head=options))
    check(tiny(HEADS[name], levels, **{key: merged.head[key] for key in options}), device)


def test_the_masks_loss_does_not_move_the_boxes_that_it_is_computed_on():
    model = tiny(HEADS['YOLOX'])
    batch = demo_mm_inputs(2, [[3, 96, 96], [3, 64, 90]], num_classes=NUM_CLASSES, with_mask=True)
    losses = model(**model.data_preprocessor(batch, True), mode='loss')
    losses['loss_mask'].backward()
    assert all(p.grad is None for p in model.bbox_head.parameters())


@pytest.mark.parametrize('name', ['RTMDet', 'YOLOX', 'GFL'])
def test_a_resumed_training_equals_one_that_never_stopped(name, tmp_path, monkeypatch):
    # MMEngine formats the config four times, which takes longer than the training.
    monkeypatch.setattr(Config, 'pretty_text', '')
    write_rectangles(tmp_path / 'data', num_images=4)
    config = rectangles_config(tmp_path / 'data')
    backbone = dict(RESNET, norm_eval=False)
    config.model = tiny_config(HEADS[name], num_classes=len(CLASSES), backbone=backbone)
    config.val_cfg = config.val_dataloader = config.val_evaluator = None
    # As RTMDet's recipe: its levels share convs.
    config.optim_wrapper.paramwise_cfg.bypass_duplicate = True
    assert_resumes_bit_by_bit(config, tmp_path)
