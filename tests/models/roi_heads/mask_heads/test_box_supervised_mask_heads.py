"""Masks that are learnt from boxes alone, in the mask heads that can."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmcv.ops import roi_align
from mmdet.registry import MODELS
from mmdet.structures.mask import PolygonMasks
from mmengine.config import ConfigDict
from mmengine.logging import MessageHub
from mmengine.structures import InstanceData

from mmdet_sag.errors import InputError

pytestmark = pytest.mark.usefixtures('default_device')

SIDE = 96
TRAIN_CFG = ConfigDict(mask_size=28, clip_mask_targets=False)
NO_MASK = [np.zeros(6)]
NAMES = ('loss_mask', 'loss_mask_project', 'loss_mask_box', 'loss_mask_pairwise')
HEADS = ['SAGMaskHead', 'BoxSupervisedFCNMaskHead']


def build(kind='SAGMaskHead', loss_boxes=dict(type='BoxInstLoss', warmup_iters=30), **options):
    torch.manual_seed(0)
    options = dict(num_convs=2, in_channels=3, conv_out_channels=16, num_classes=1, **options)
    head = MODELS.build(dict(type=kind, loss_boxes=loss_boxes, **options))
    head.init_weights()
    return head


def scene(polygons, boxes, lab_image=None):
    """Ground truth of one image as the data preprocessor gives it."""
    has_mask = torch.tensor([polygon is not NO_MASK for polygon in polygons])
    lab_image = torch.zeros(3, SIDE, SIDE) if lab_image is None else lab_image
    return InstanceData(
        bboxes=boxes,
        labels=torch.zeros(len(boxes), dtype=torch.long),
        masks=PolygonMasks(polygons, SIDE, SIDE),
        has_mask=has_mask,
        lab_images=[lab_image] * len(boxes),
    )


def sampled(rois, gt_inds, gt_instances):
    return SimpleNamespace(
        pos_priors=rois,
        pos_assigned_gt_inds=gt_inds,
        pos_gt_bboxes=gt_instances.bboxes[gt_inds],
        pos_gt_labels=gt_instances.labels[gt_inds],
    )


@pytest.fixture
def hub():
    hub = MessageHub.get_current_instance()
    yield hub
    hub.pop_info('iter', None)


@pytest.mark.parametrize('kind', HEADS)
def test_a_disc_is_learnt_from_its_box_alone(kind, hub):
    ys, xs = torch.meshgrid(torch.arange(SIDE) + 0.5, torch.arange(SIDE) + 0.5, indexing='ij')
    disc = (xs - 40) ** 2 + (ys - 50) ** 2 <= 24**2
    box = torch.tensor([[16.0, 26, 64, 74]])
    lab_image = torch.where(disc, 60.0, 20.0).expand(3, -1, -1).contiguous()
    gt_instances = scene([NO_MASK], box, lab_image)

    def crops(image, rois, size):
        return roi_align(image.float()[None], F.pad(rois, (1, 0)), size, 1.0, 0, 'avg', True)

    head = build(kind)
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.01)
    outward = torch.tensor([-24.0, -24, 24, 24])
    for step in range(60):
        hub.update_info('iter', step)
        rois = box + outward * torch.rand(8, 4)
        preds = head(crops((lab_image - 40) / 20, rois, 14))
        result = sampled(rois, torch.zeros(8, dtype=torch.long), gt_instances)
        losses = head.loss_and_target(preds, [result], [gt_instances], TRAIN_CFG)['loss_mask']
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    found = head(crops((lab_image - 40) / 20, box, 14))[0, 0] > 0
    target = crops(disc[None], box, 28)[0, 0] >= 0.5
    iou_of_box = target.float().mean()
    assert (found & target).sum() / (found | target).sum() > 0.9 > 0.8 > iou_of_box


@pytest.mark.parametrize('kind', HEADS)
def test_each_object_learns_from_what_it_has_and_counts_equally(kind):
    boxes = torch.tensor([[10.0, 10, 40, 40], [50, 40, 90, 80], [20, 50, 40, 90]])
    polygons = [[np.array([10.0, 10, 40, 10, 10, 40])], NO_MASK, [np.array([20.0, 50, 40, 50, 40, 90])]]
    gt_inds = torch.tensor([0, 1, 1, 2])
    head = build(kind)
    preds = torch.randn(4, 1, 28, 28)

    def losses(polygons, keep, head=head):
        gt_instances = scene(polygons, boxes)
        result = sampled(boxes[gt_inds[keep]] + torch.tensor([-3.0, -2, 4, 5]), gt_inds[keep], gt_instances)
        return head.loss_and_target(preds[keep], [result], [gt_instances], TRAIN_CFG)['loss_mask']

    mixed = losses(polygons, [0, 1, 2, 3])
    masks, box = losses(polygons, [0, 3]), losses(polygons, [1, 2])
    assert all(masks[name] == 0 for name in NAMES[1:]) and box['loss_mask'] == 0
    for name in mixed:
        torch.testing.assert_close(mixed[name], (masks[name] + box[name]) / 2)
    # Where all have a mask, the loss is that of a head without the option.
    plain = losses(polygons, [0, 3], build(kind, None))
    torch.testing.assert_close(plain, dict(loss_mask=masks['loss_mask']))


def test_images_without_objects_have_all_losses():
    head = build()
    gt_instances = scene([], torch.zeros(0, 4))
    none = torch.zeros(0, dtype=torch.long)
    preds = torch.zeros(0, 1, 28, 28, requires_grad=True)
    results = head.loss_and_target(preds, [sampled(torch.zeros(0, 4), none, gt_instances)], [gt_instances], TRAIN_CFG)
    assert {name: loss.item() for name, loss in results['loss_mask'].items()} == dict.fromkeys(NAMES, 0.0)
    assert all(loss.requires_grad for loss in results['loss_mask'].values())


def test_pseudo_labels_of_teachers_keep_their_weights():
    boxes = torch.tensor([[10.0, 10, 40, 40], [50, 40, 90, 80]])
    gt_instances = scene([NO_MASK, NO_MASK], boxes)
    del gt_instances.has_mask
    gt_instances.mask_weights = torch.tensor([1.0, 0.0])
    result = sampled(boxes, torch.tensor([0, 1]), gt_instances)
    losses = build().loss_and_target(torch.zeros(2, 1, 28, 28), [result], [gt_instances], TRAIN_CFG)['loss_mask']
    assert losses.keys() == {'loss_mask'} and losses['loss_mask'].item() == pytest.approx(np.log(2) / 2, abs=1e-6)


def test_what_is_missing_is_named():
    gt_instances = scene([NO_MASK], torch.tensor([[10.0, 10, 40, 40]]))
    result = sampled(gt_instances.bboxes, torch.tensor([0]), gt_instances)
    del gt_instances.has_mask
    with pytest.raises(InputError, match=r"set model\.data_preprocessor\.type='BoxSupervisedDataPreprocessor'"):
        build().loss_and_target(torch.zeros(1, 1, 28, 28), [result], [gt_instances], TRAIN_CFG)
    head = build(loss_mask=dict(type='CrossEntropyLoss', use_sigmoid=True))
    with pytest.raises(InputError, match='use_mask=True'):
        head.loss_and_target(torch.zeros(1, 1, 28, 28), [result], [gt_instances], TRAIN_CFG)
