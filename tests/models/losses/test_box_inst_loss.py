import math
from types import SimpleNamespace

import pytest
import torch
from mmdet.models.data_preprocessors import BoxInstDataPreprocessor
from mmdet.models.dense_heads import BoxInstMaskHead
from mmdet.registry import MODELS
from mmdet.structures.mask import BitmapMasks
from mmengine.logging import MessageHub
from mmengine.structures import InstanceData

from mmdet_sag.models.losses import BoxInstLoss, box_inst_loss

STRIDE, SIZE = 4, 28


@pytest.fixture
def iteration():
    hub = MessageHub.get_current_instance()
    yield lambda value: hub.update_info('iter', value)
    hub.pop_info('iter', None)


def mmdet_losses(logits, masks, lab_map, **options):
    """The losses of MMDetection's BoxInst on maps of stride 4 of one image, whose objects' masks are full boxes."""
    head = MODELS.build(
        dict(
            type='BoxInstMaskHead',
            num_layers=1,
            feat_channels=2,
            mask_out_stride=STRIDE,
            size_of_interest=8,
            max_masks_to_train=-1,
            topk_masks_per_img=-1,
            mask_feature_head=dict(in_channels=2, feat_channels=2, start_level=0, end_level=2, out_channels=2),
            loss_mask=dict(type='DiceLoss', use_sigmoid=True, activate=True, eps=5e-6),
            **options,
        )
    )
    similarity = BoxInstDataPreprocessor.get_images_color_similarity(
        SimpleNamespace(pairwise_size=3, pairwise_dilation=2), lab_map[None], torch.ones(lab_map.shape[1:])
    )
    gt_instances = InstanceData(
        bboxes=torch.zeros(len(masks), 4),
        masks=BitmapMasks(masks.numpy(), *masks.shape[1:]),
        pairwise_masks=(similarity >= 0.3).float().expand(len(masks), -1, -1, -1),
    )
    positives = InstanceData(pos_assigned_gt_inds=torch.arange(len(masks)))
    losses = BoxInstMaskHead.loss_by_feat(head, [logits], [gt_instances], [{}], [positives])
    return losses['loss_mask_project'], losses['loss_mask_pairwise']


# There, the pairs' weight grows from the first step on.
@pytest.mark.parametrize(('step', 'own_step'), [(0, 0), (0, 50), (50, 75), (1000, 1000)])
def test_it_equals_the_losses_of_boxinst_where_a_roi_is_the_image(iteration, step, own_step):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, SIZE, SIZE, generator=generator, requires_grad=True)
    # Patches of similar colours, none of them near black, which is what BoxInst takes the outside for.
    lab_map = (
        torch.randint(3, 7, (3, 7, 7), generator=generator).float().repeat_interleave(4, 1).repeat_interleave(4, 2)
    )
    boxes = torch.tensor([[8.0, 16, 60, 100], [40, 4, 112, 48]])
    masks = torch.zeros(2, STRIDE * SIZE, STRIDE * SIZE, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist()):
        mask[y1:y2, x1:x2] = 1
    iteration(step)
    expected = mmdet_losses(logits, masks, lab_map + 10, warmup_iters=100)
    rois = torch.tensor([[0.0, 0, STRIDE * SIZE, STRIDE * SIZE]]).repeat(2, 1)
    iteration(own_step)
    ours = BoxInstLoss(pairwise_dilation=2, warmup_iters=100)(logits, rois, boxes, (lab_map + 10).repeat(2, 1, 1, 1))
    ours = ours['loss_mask_project'], ours['loss_mask_pairwise']
    torch.testing.assert_close(ours, expected)
    gradients = [torch.autograd.grad(sum(losses), logits, retain_graph=True)[0] for losses in (ours, expected)]
    torch.testing.assert_close(*gradients)


def test_projections_are_compared_with_the_box_in_the_frame_of_the_roi():
    loss = BoxInstLoss()
    # 4x4 cells of 10x5 pixels; the box covers half of the second column and the rows 1 and 2.
    rois, boxes = torch.tensor([[100.0, 50, 140, 70]]), torch.tensor([[115.0, 55, 120, 65]])
    logits = torch.full((1, 4, 4), -50.0)
    logits[0, 1:3, 1] = 0.0
    crops = torch.zeros(1, 3, 4, 4)
    losses = loss(logits, rois, boxes, crops)
    # Columns are equal; rows are 0.5 where the box has 1: 1 - 2 (0.5 + 0.5) / (0.25 + 0.25 + 1 + 1).
    assert losses['loss_mask_project'].item() == pytest.approx(1 - 2 / 2.5, abs=1e-4)
    # All but the two cells are outside, and are background.
    assert losses['loss_mask_box'].item() == pytest.approx(0, abs=1e-6)
    outside = BoxInstLoss(box_weight=2.0)(torch.zeros_like(logits), rois, boxes, crops)['loss_mask_box']
    assert outside.item() == pytest.approx(2 * math.log(2), abs=1e-6)


@pytest.mark.parametrize(('step', 'inside_weight'), [(0, 1.0), (50, 1.0), (75, 0.5), (100, 0.0), (1000, 0.0)])
def test_masks_fill_their_boxes_until_the_pairs_count(iteration, step, inside_weight):
    # The first of two columns is the box.
    rois, boxes = torch.tensor([[0.0, 0, 2, 1]]), torch.tensor([[0.0, 0, 1, 1]])
    logits = torch.tensor([[[-math.log(4), 0.0]]])
    iteration(step)
    losses = BoxInstLoss(warmup_iters=100, box_weight=0.5)(logits, rois, boxes, torch.zeros(1, 3, 1, 2))
    # Probabilities 1/5 and 1/2.
    expected = 0.5 * (math.log(2) + inside_weight * math.log(5))
    assert losses['loss_mask_box'].item() == pytest.approx(expected, abs=1e-6)
    assert (losses['loss_mask_pairwise'] > 0) == (inside_weight < 1)


def test_pairs_of_similar_colours_shall_agree_and_others_need_not():
    loss = BoxInstLoss()
    rois = boxes = torch.tensor([[0.0, 0, 2, 1]])
    logits = torch.tensor([[[math.log(3), -math.log(4)]]])
    crops = torch.zeros(1, 3, 1, 2)
    # Probabilities 3/4 and 1/5: the chance to agree is 3/4 1/5 + 1/4 4/5.
    assert loss(logits, rois, boxes, crops)['loss_mask_pairwise'].item() == pytest.approx(-math.log(0.35), abs=1e-5)
    # exp(-d / 2) = 0.3 at a distance of 2.408.
    for distance, similar in ((2.40, True), (2.41, False)):
        crops[0, 1, 0, 1] = distance
        assert loss.similar_pairs(crops).sum() == (2 if similar else 0)
        assert (loss(logits, rois, boxes, crops)['loss_mask_pairwise'] > 0) == similar


@pytest.mark.parametrize(
    ('colours', 'said'),
    [
        (
            'all differ',
            '0% of the neighbours in boxes have a similar colour, so that masks may fill their boxes. Lower',
        ),
        # Two of eight neighbours.
        ('stripes', '25% of the neighbours in boxes have a similar colour'),
        ('one', '100% of the neighbours in boxes have a similar colour, so that masks may leak. Raise'),
    ],
)
def test_after_some_steps_the_share_of_similar_pairs_is_said_once(colours, said, monkeypatch):
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing='ij')
    lightness = {'all differ': x + 32 * y, 'stripes': x, 'one': 0 * x}[colours] * 10
    rois, boxes = torch.tensor([[0.0, 0, 32, 32]]), torch.tensor([[4.0, 4, 28, 28]])
    loss = BoxInstLoss()
    messages = []
    monkeypatch.setattr(box_inst_loss, 'print_log', lambda message, *_: messages.append(message))
    for _ in range(120):
        loss(torch.zeros(1, 32, 32), rois, boxes, lightness.expand(1, 3, -1, -1))
    (message,) = messages
    assert message.startswith(f'BoxInstLoss: {said}')


@pytest.mark.parametrize('what', ['lines', 'a disc'])
def test_masks_that_became_lines_are_warned_of_once(what, iteration, monkeypatch):
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing='ij')
    inside = (y == 8) | (x == 8) if what == 'lines' else (y - 16) ** 2 + (x - 16) ** 2 < 100
    rois, boxes = torch.tensor([[0.0, 0, 32, 32]]), torch.tensor([[4.0, 4, 28, 28]])
    loss = BoxInstLoss(warmup_iters=100)
    messages = []
    monkeypatch.setattr(box_inst_loss, 'print_log', lambda message, *_: messages.append(message))
    for step in range(400):
        iteration(step)
        loss((inside * 20.0 - 10)[None], rois, boxes, torch.zeros(1, 3, 32, 32))
    warnings = [message for message in messages if 'cover' in message]
    assert len(warnings) == (what == 'lines')
    assert all('8% of their boxes' in message and 'warmup_iters, which is 100' in message for message in warnings)
