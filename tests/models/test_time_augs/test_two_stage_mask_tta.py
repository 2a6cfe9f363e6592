"""Test-time augmentation of two-stage detectors with masks."""

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict
from mmengine.hub import get_config
from support.reference import CONFIGS, make_batch

from mmdet_sag.models import TwoStageMaskTTAModel

pytestmark = pytest.mark.usefixtures('without_tf32')

TTA_CFG = ConfigDict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=10)
NAMES = ('mask-rcnn', 'cascade-mask-rcnn')


def build(name):
    """A detector of random weights that finds something everywhere."""
    config = Config.fromfile(CONFIGS / f'sag_mask/{name}_r50_fpn_sag_1x_coco.py').model
    config.backbone = dict(type='ResNet', depth=18, init_cfg=None)
    config.neck.in_channels = [64, 128, 256, 512]
    config.test_cfg.rpn.max_per_img = 30
    config.test_cfg.rcnn.update(score_thr=0.0, max_per_img=10)
    torch.manual_seed(0)
    model = MODELS.build(config)
    model.init_weights()
    for mask_head in model.roi_head.mask_head if name.startswith('cascade') else [model.roi_head.mask_head]:
        # Masks of random weights are near a probability of one half everywhere.
        torch.nn.init.normal_(mask_head.conv_logits.weight, std=3)
    return model.eval()


@pytest.fixture(scope='module')
def image():
    return np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)


def view(image, flip=False):
    batch = make_batch([np.ascontiguousarray(image[:, ::-1]) if flip else image])
    direction = 'horizontal' if flip else None
    batch['data_samples'][0].set_metainfo(dict(flip=flip, flip_direction=direction))
    return batch


def augmented(model, *views):
    tta = MODELS.build(dict(type='TwoStageMaskTTAModel', module=model, tta_cfg=TTA_CFG))
    return tta.test_step({key: [v[key] for v in views] for key in ('inputs', 'data_samples')})[0].pred_instances


@pytest.mark.parametrize('name', NAMES)
@torch.no_grad()
def test_one_plain_view_gives_the_plain_result(name, image, device):
    model = build(name).to(device)
    plain = model.test_step(make_batch([image]))[0].pred_instances
    tta = augmented(model, view(image))
    assert len(plain) == 10 and plain.masks.any()
    torch.testing.assert_close(tta.bboxes, plain.bboxes)
    torch.testing.assert_close(tta.scores, plain.scores)
    assert torch.equal(tta.labels, plain.labels)
    assert (tta.masks != plain.masks).float().mean() < 1e-4


@pytest.mark.parametrize('name', NAMES)
@torch.no_grad()
def test_a_flipped_view_of_a_flipped_image_gives_the_image_back(name, image, device):
    model = build(name).to(device)
    mirrored = np.ascontiguousarray(image[:, ::-1])
    plain, flipped = augmented(model, view(image)), augmented(model, view(mirrored, flip=True))
    width = image.shape[1]
    expected = plain.bboxes.cpu()[:, [2, 1, 0, 3]] * torch.tensor([-1, 1, -1, 1]) + torch.tensor([width, 0, width, 0])
    torch.testing.assert_close(flipped.bboxes.cpu(), expected, rtol=1e-3, atol=0.05)
    assert (flipped.masks.flip(-1) != plain.masks).float().mean() < 1e-2


@torch.no_grad()
def test_masks_of_two_views_are_averaged_as_probabilities(image):
    model = build('mask-rcnn')
    probs = iter([0.9, 0.2, 0.9, 0.05])
    model.roi_head.mask_head.register_forward_hook(lambda module, x, out: torch.full_like(out, next(probs)).logit())
    views = (view(image), view(image, flip=True))
    inside = augmented(model, *views).masks.float().mean()
    assert inside > 0.1
    assert not augmented(model, *views).masks.any()


@pytest.mark.parametrize('name', NAMES)
@torch.no_grad()
def test_views_without_detections_give_an_empty_result(name, image):
    model = build(name)
    model.roi_head.test_cfg.score_thr = 2.0
    result = augmented(model, view(image), view(image, flip=True))
    assert len(result) == 0 and result.masks.shape == (0, *image.shape[:2])


@pytest.mark.parametrize(
    ('name', 'supported'),
    [
        ('mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', True),
        ('cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py', True),
        ('ms_rcnn/ms-rcnn_r50_fpn_1x_coco.py', False),
        ('htc/htc_r50_fpn_1x_coco.py', False),
        ('scnet/scnet_r50_fpn_1x_coco.py', False),
        ('point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py', False),
        ('queryinst/queryinst_r50_fpn_1x_coco.py', False),
        ('solo/solo_r50_fpn_1x_coco.py', False),
    ],
)
def test_it_supports_detectors_whose_masks_come_from_features_and_boxes_alone(name, supported):
    assert TwoStageMaskTTAModel.supports(get_config(f'mmdet::{name}').model) is supported
