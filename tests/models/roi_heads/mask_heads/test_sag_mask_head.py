import copy

import numpy as np
import pytest
import torch
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config, ConfigDict
from mmengine.hub import get_config
from mmengine.structures import InstanceData
from support.cpu_autocast import cpu_autocast
from support.reference import CONFIGS

from mmdet_sag.errors import InputError
from mmdet_sag.models import SAGMaskHead
from mmdet_sag.models.roi_heads import SAGSCNetMaskHead

TINY = dict(num_convs=2, in_channels=8, conv_out_channels=8, num_classes=3)
CARAFE = dict(up_kernel=5, up_group=1, encoder_kernel=3, encoder_dilation=1, compressed_channels=4)


def build(**options):
    torch.manual_seed(0)
    head = MODELS.build(dict(type='SAGMaskHead', **{**TINY, **options}))
    head.init_weights()
    return head


@pytest.mark.usefixtures('default_device')
def test_it_is_an_fcn_mask_head_with_attention_between_convs_and_upsampling():
    head = build()
    x = torch.randn(4, 8, 14, 14)
    y = head.convs[1](head.convs[0](x))
    expected = head.conv_logits(head.upsample(head.spatial_attention(y)).relu())
    torch.testing.assert_close(head(x), expected)
    assert head(x).shape == (4, 3, 28, 28)


def test_all_that_it_adds_to_an_fcn_mask_head_is_one_conv():
    fcn = MODELS.build(dict(type='FCNMaskHead', **TINY))
    ours = build()
    added = set(ours.state_dict()) - set(fcn.state_dict())
    assert added == {'convs.2.conv.weight'} and set(fcn.state_dict()) <= set(ours.state_dict())
    assert ours.state_dict()['convs.2.conv.weight'].shape == (1, 2, 3, 3)


@pytest.mark.usefixtures('default_device')
@pytest.mark.parametrize(
    'options',
    [
        dict(class_agnostic=True),
        dict(norm_cfg=dict(type='BN')),
        dict(norm_cfg=dict(type='GN', num_groups=2)),
        dict(num_convs=0),
        dict(attention_kernel_size=7),
        dict(upsample_cfg=dict(type='bilinear', scale_factor=2)),
        dict(upsample_cfg=dict(type='nearest', scale_factor=2)),
        pytest.param(
            dict(upsample_cfg=dict(type='carafe', scale_factor=2, **CARAFE)),
            marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='mmcv has CARAFE for CUDA alone'),
        ),
        dict(upsample_cfg=dict(type=None)),
        dict(predictor_cfg=dict(type='NormedConv2d', tempearture=20)),
    ],
    ids=lambda options: next(iter(options)) + '-' + str(next(iter(options.values())))[:24],
)
def test_every_option_of_fcn_mask_head_works(options):
    head = build(**options)
    side = 14 if options.get('upsample_cfg', {}).get('type', '') is None else 28
    out = head(torch.randn(2, 8, 14, 14))
    assert out.shape == (2, 1 if head.class_agnostic else 3, side, side)
    out.sum().backward()
    assert head.spatial_attention.conv.weight.grad.abs().sum() > 0


class NegatedMaskHead(SAGMaskHead):
    def forward(self, x):
        return -super().forward(x)


@pytest.mark.usefixtures('default_device')
@pytest.mark.parametrize('kind', [SAGMaskHead, NegatedMaskHead, SAGSCNetMaskHead])
@torch.no_grad()
def test_the_masks_of_a_class_are_those_of_the_heads_own_forward(kind):
    torch.manual_seed(0)
    head = kind(**TINY)
    x, labels = torch.randn(4, 8, 14, 14), torch.tensor([2, 0, 1, 2])
    expected = head(x)[range(4), labels][:, None]
    torch.testing.assert_close(head.forward_of_class(x, labels), expected, rtol=1e-5, atol=1e-5)


def test_the_masks_of_one_class_do_not_cost_those_of_all():
    head = build()
    calls = []
    head.conv_logits.register_forward_hook(lambda *args: calls.append(args))
    head.forward_of_class(torch.randn(4, 8, 14, 14), torch.tensor([0, 2, 1, 1]))
    assert not calls


@pytest.mark.usefixtures('default_device')
def test_no_roi_gives_no_mask_but_a_gradient_to_every_parameter():
    head = build()
    head(torch.zeros(0, 8, 14, 14)).sum().backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_changes_the_precision_alone(dtype):
    head = build()
    x = torch.randn(2, 8, 14, 14)
    with cpu_autocast(dtype):
        out = head(x)
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), head(x), atol=2e-2, rtol=2e-2)


def square(x1, y1, x2, y2):
    return [[x1, y1, x2, y1, x2, y2, x1, y2]]


def targets_of(masks, roi, **train_cfg):
    sampling_result = ConfigDict(
        pos_priors=torch.tensor([roi]), pos_assigned_gt_inds=torch.tensor([0]), pos_gt_labels=torch.tensor([0])
    )
    gt_instances = InstanceData(masks=masks)
    return build().get_targets([sampling_result], [gt_instances], ConfigDict(mask_size=28, **train_cfg))[0]


def polygons(*coordinates):
    return PolygonMasks([[np.array(part, float) for part in square(*coordinates)]], 100, 100)


def test_a_roi_over_the_border_keeps_its_size_when_targets_are_not_clipped():
    masks = polygons(0, 0, 50, 50)
    whole = targets_of(masks, [-50.0, -50.0, 50.0, 50.0], clip_mask_targets=False)
    clipped = targets_of(masks, [-50.0, -50.0, 50.0, 50.0])
    assert whole.mean().item() == pytest.approx(0.25, abs=0.02) and whole[14:, 14:].all()
    assert clipped.all()


def test_bitmap_and_polygon_masks_give_the_same_target():
    masks = polygons(20, 30, 60, 70)
    bitmaps = BitmapMasks(masks.to_ndarray(), 100, 100)
    for clip in (True, False):
        roi = [10.0, 10.0, 80.0, 90.0]
        difference = targets_of(masks, roi, clip_mask_targets=clip) - targets_of(bitmaps, roi, clip_mask_targets=clip)
        assert difference.abs().mean() < 0.05


SAG_HEADS = dict(FCNMaskHead='SAGMaskHead', HTCMaskHead='SAGHTCMaskHead', SCNetMaskHead='SAGSCNetMaskHead')


def mask_heads_of(config):
    mask_heads = config.roi_head.mask_head
    return mask_heads if isinstance(mask_heads, list) else [mask_heads]


def narrow(config):
    """Divide the channels behind a backbone by eight or more."""
    widths = {256: 32, 1024: 64}
    if isinstance(config, list):
        for item in config:
            narrow(item)
    elif isinstance(config, dict):
        for key, value in config.items():
            if key == 'aspp_out_channels':
                config[key] = value // 8
            elif (key.endswith('channels') or key == 'rfp_inplanes') and isinstance(value, int):
                config[key] = widths.get(value, value)
            else:
                narrow(value)


def shrink(config):
    """Make a detector of MMDetection small and independent of pretrained weights."""
    if config.backbone.type == 'ResNet':
        config.backbone = dict(
            type='ResNet', depth=18, frozen_stages=-1, norm_eval=False, init_cfg=None, norm_cfg=dict(type='BN')
        )
        config.neck.in_channels = [64, 128, 256, 512]
    config.backbone.init_cfg = None
    for part in (config.neck, config.rpn_head, config.roi_head):
        narrow(part)
    if 'rfp_backbone' in config.neck:
        config.neck.rfp_backbone.pretrained = None
    config.train_cfg.rpn_proposal.max_per_img = config.test_cfg.rpn.max_per_img = 20
    config.test_cfg.rcnn.max_per_img = 5
    return config


def train_and_predict(model, device):
    model.init_weights()
    model.to(device)
    batch = demo_mm_inputs(
        2, [(3, 96, 128), (3, 80, 96)], num_items=[2, 0], num_classes=80, with_mask=True, with_semantic=True
    )
    data = model.data_preprocessor(copy.deepcopy(batch), training=True)
    loss, log_vars = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    assert loss.isfinite() and any('loss_mask' in key for key in log_vars)
    heads = [module for module in model.modules() if isinstance(module, SAGMaskHead)]
    assert all(head.spatial_attention.conv.weight.grad.abs().sum() > 0 for head in heads)
    model.eval()
    with torch.no_grad():
        results = model(**model.data_preprocessor(batch, training=False), mode='predict')
    assert all(isinstance(result, DetDataSample) and 'masks' in result.pred_instances for result in results)


@pytest.mark.parametrize(
    'name',
    [
        'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
        'cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py',
        'ms_rcnn/ms-rcnn_r50_fpn_1x_coco.py',
        'groie/mask-rcnn_r50_fpn_groie_1x_coco.py',
        'gn/mask-rcnn_r50_fpn_gn-all_2x_coco.py',
        'htc/htc-without-semantic_r50_fpn_1x_coco.py',
        'htc/htc_r50_fpn_1x_coco.py',
        'scnet/scnet_r50_fpn_1x_coco.py',
        'detectors/detectors_htc-r50_1x_coco.py',
    ],
)
def test_a_detector_of_mmdetection_trains_and_predicts_with_it(name, device):
    config = shrink(get_config(f'mmdet::{name}').model)
    for mask_head in mask_heads_of(config):
        mask_head.type = SAG_HEADS[mask_head.type]
    model = MODELS.build(config)
    heads = [module for module in model.modules() if isinstance(module, FCNMaskHead)]
    assert heads and all(isinstance(head, SAGMaskHead) for head in heads)
    train_and_predict(model, device)


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('htc/htc_r50_fpn_1x_coco.py', "no option with_conv_res; .*write type='SAGHTCMaskHead'"),
        ('scnet/scnet_r50_fpn_1x_coco.py', "no option conv_to_res; .*write type='SAGSCNetMaskHead'"),
        ('point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py', 'CoarseMaskHead, .* not an FCN head'),
        ('queryinst/queryinst_r50_fpn_1x_coco.py', 'DynamicMaskHead, .* not an FCN head'),
    ],
)
def test_where_it_cannot_be_the_mask_head_the_build_says_what_to_write(name, message):
    config = get_config(f'mmdet::{name}').model
    config.backbone.init_cfg = None
    for mask_head in mask_heads_of(config):
        mask_head.type = 'SAGMaskHead'
    with pytest.raises(InputError, match=message):
        MODELS.build(config)


def test_a_roi_head_that_passes_more_than_features_is_told_the_class_to_write():
    with pytest.raises(InputError, match="write type='SAGHTCMaskHead'"):
        build()(torch.randn(1, 8, 14, 14), None, return_logits=False)


@pytest.mark.usefixtures('default_device')
def test_what_a_stage_of_htc_hands_on_has_passed_the_attention():
    head = MODELS.build(dict(type='SAGHTCMaskHead', attention_kernel_size=7, **TINY))
    x, res_feat = torch.randn(2, 8, 14, 14), torch.randn(2, 8, 14, 14)
    logits, handed_on = head(x, res_feat)
    y = head.convs[1](head.convs[0](x + head.conv_res(res_feat)))
    torch.testing.assert_close(handed_on, head.spatial_attention(y))
    torch.testing.assert_close(logits, head.conv_logits(head.upsample(handed_on).relu()))


@pytest.mark.parametrize('path', sorted((CONFIGS / 'sag_mask').glob('*.py')), ids=lambda path: path.stem)
def test_a_config_of_the_folder_trains_and_predicts(path, device):
    model = MODELS.build(shrink(Config.fromfile(path).model))
    assert any(isinstance(module, SAGMaskHead) for module in model.modules())
    train_and_predict(model, device)


@pytest.mark.parametrize(
    ('name', 'base'),
    [
        ('mask-rcnn_r50_fpn_sag_1x_coco', 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco'),
        ('cascade-mask-rcnn_r50_fpn_sag_1x_coco', 'cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco'),
        ('htc_r50_fpn_sag_1x_coco', 'htc/htc_r50_fpn_1x_coco'),
        ('scnet_r50_fpn_sag_1x_coco', 'scnet/scnet_r50_fpn_1x_coco'),
    ],
)
def test_a_config_with_sag_differs_from_mmdetections_in_the_mask_head_alone(name, base):
    ours = Config.fromfile(CONFIGS / f'sag_mask/{name}.py').model
    theirs = get_config(f'mmdet::{base}.py').model
    for our_head, their_head in zip(mask_heads_of(ours), mask_heads_of(theirs)):
        assert our_head.pop('type') == SAG_HEADS[their_head.pop('type')]
    ours.pop('_scope_')
    assert ours.to_dict() == theirs.to_dict()
