import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from support.converter import checkpoint_conversion
from support.layouts import FIRST_CONFIGS, FIRST_LAYOUTS, first_layout

from mmdet_sag.errors import InputError

convert_checkpoint = checkpoint_conversion.convert_checkpoint

SMALL = 'centermask_V_19_eSE_FPN_lite_res600_ms_bs16_4x'


def convert(tmp_path, content):
    torch.save(content, tmp_path / 'source.pth')
    conversion = convert_checkpoint(tmp_path / 'source.pth', tmp_path / 'converted.pth', force=True)
    return conversion, torch.load(tmp_path / 'converted.pth', weights_only=True)


def build_and_load(checkpoint):
    """Build the model of the config in a checkpoint and load it strictly."""
    with torch.device('meta'):
        model = MODELS.build(Config.fromstring(checkpoint['meta']['cfg'], '.py').model)
    model.load_state_dict(checkpoint['state_dict'], strict=True, assign=True)
    return model


def test_every_layout_has_its_config():
    assert set(FIRST_CONFIGS) == set(FIRST_LAYOUTS)


@pytest.mark.parametrize('layout', FIRST_CONFIGS)
def test_a_published_checkpoint_fits_its_config_strictly(layout, tmp_path):
    source = first_layout(layout)
    conversion, checkpoint = convert(tmp_path, {'model': source, 'optimizer': {}, 'iteration': 270000})
    assert conversion.kind == 'CenterMask detector of the first implementation'
    assert conversion.model == checkpoint['meta']['config'] == f'centermask_first/{FIRST_CONFIGS[layout]}'
    assert sum(conversion.mapped.values()) == len(source)
    assert 'optimizer, iteration' in str(conversion)

    model = build_and_load(checkpoint)
    # Every tensor of one value is found once again, and the classes keep their order.
    kept = [value.flatten()[0].item() for value in source.values() if not torch.equal(value, class_indices(value))]
    state_dict = {key: value for key, value in checkpoint['state_dict'].items() if 'num_batches' not in key}
    found = [
        value.flatten()[0].item()
        for key, value in state_dict.items()
        if key.rpartition('.')[0] not in model.class_layers
    ]
    assert sorted(kept) == sorted(found)
    assert torch.equal(model.bbox_head.conv_cls.bias, torch.arange(80.0))
    assert torch.equal(model.roi_head.mask_head.conv_logits.bias, torch.arange(1.0, 81.0))
    assert torch.equal(model.roi_head.mask_head.conv_logits.weight[:, 3, 0, 0], torch.arange(1.0, 81.0))
    if any('maskiou' in key for key in source):
        assert torch.equal(model.roi_head.mask_iou_head.fc_mask_iou.weight[:, 5], torch.arange(1.0, 81.0))


def class_indices(value):
    return torch.arange(float(len(value))).view(-1, *[1] * (value.ndim - 1)).expand(value.shape)


def test_parameters_go_where_they_belong(tmp_path):
    source = first_layout('centermask_R_50_FPN_ms_3x')
    _, checkpoint = convert(tmp_path, source)
    for name, new_name in {
        'backbone.body.stem.bn1.running_var': 'backbone.bn1.running_var',
        'backbone.body.layer2.0.downsample.0.weight': 'backbone.layer2.0.downsample.0.weight',
        'backbone.body.layer2.0.downsample.1.bias': 'backbone.layer2.0.downsample.1.bias',
        'backbone.body.layer4.2.bn3.weight': 'backbone.layer4.2.bn3.weight',
        'backbone.body.layer4.2.conv3.weight': 'backbone.layer4.2.conv3.weight',
        'backbone.fpn.fpn_inner2.bias': 'neck.lateral_convs.0.conv.bias',
        'backbone.fpn.fpn_layer4.bias': 'neck.fpn_convs.2.conv.bias',
        'backbone.fpn.top_blocks.p7.bias': 'neck.fpn_convs.4.conv.bias',
        'rpn.head.centerness.bias': 'bbox_head.conv_centerness.bias',
        'rpn.head.bbox_tower.10.bias': 'bbox_head.reg_convs.3.gn.bias',
        'rpn.head.scales.4.scale': 'bbox_head.scales.4.scale',
        'roi_heads.mask.feature_extractor.spatialAtt.conv.weight': 'roi_head.mask_head.convs.4.conv.weight',
        'roi_heads.mask.predictor.conv5_mask.bias': 'roi_head.mask_head.upsample.bias',
        'roi_heads.maskiou.feature_extractor.maskiou_fc2.bias': 'roi_head.mask_iou_head.fcs.1.bias',
    }.items():
        assert checkpoint['state_dict'][new_name].flatten()[0] == source[name].flatten()[0], name


def test_offsets_of_deformable_convs_are_told_from_their_weights(tmp_path):
    name = 'backbone.body.stage3.OSA3_1.layers.0.OSA3_1_0/conv'
    source = first_layout('centermask_V_39_eSE_dconv_FPN_1x')
    _, checkpoint = convert(tmp_path, source)
    conv = build_and_load(checkpoint).backbone.stages[1][1].convs[0].conv
    assert conv.weight.flatten()[0] == source[f'{name}.conv.weight'].flatten()[0]
    assert conv.conv_offset.bias[0] == source[f'{name}.offset.bias'][0]


def test_the_licence_is_that_of_the_first_implementation(tmp_path):
    conversion, checkpoint = convert(tmp_path, {f'module.{key}': value for key, value in first_layout(SMALL).items()})
    assert 'BSD' in conversion.licence and 'non-commercial' in conversion.licence
    assert checkpoint['meta']['licence'] == conversion.licence
    assert len(checkpoint['meta']['dataset_meta']['classes']) == 80
    assert any('background' in note for note in conversion.notes)


def test_another_class_count_keeps_its_background_out_too(tmp_path):
    conversion, checkpoint = convert(tmp_path, first_layout(SMALL, num_classes=7))
    assert conversion.num_classes == 7
    assert torch.equal(build_and_load(checkpoint).roi_head.mask_head.conv_logits.bias, torch.arange(1.0, 8.0))


@pytest.mark.parametrize('layout', ['centermask_V_19_eSE_FPN_ms_3x', 'centermask_M_v2_FPN_lite_res600_ms_bs16_4x'])
def test_a_mask_iou_head_that_the_published_result_did_without_is_left_out(layout, tmp_path):
    other = 'centermask_V_39_eSE_FPN_ms_3x' if 'V_19' in layout else SMALL
    mask_iou = {key: value for key, value in first_layout(other).items() if '.maskiou.' in key}
    conversion, checkpoint = convert(tmp_path, {**first_layout(layout), **mask_iou})
    assert conversion.model == f'centermask_first/{FIRST_CONFIGS[layout]}'
    assert 'without a MaskIoU head' in str(conversion)
    assert build_and_load(checkpoint).roi_head.mask_iou_head is None


def test_a_file_that_lacks_something_is_refused_with_the_closest_model(tmp_path):
    source = first_layout(SMALL)
    del source['rpn.head.centerness.weight']
    with pytest.raises(InputError) as error:
        convert(tmp_path, source)
    message = str(error.value)
    assert len(message.splitlines()) == 1
    assert f'centermask_first/{FIRST_CONFIGS[SMALL]}' in message
    assert '1 missing: bbox_head.conv_centerness.weight' in message


def test_a_mask_iou_head_is_not_dropped_to_hide_another_difference(tmp_path):
    source = {key: value for key, value in first_layout(SMALL).items() if 'maskiou_fc2' not in key}
    with pytest.raises(InputError, match='2 missing: roi_head.mask_iou_head.fcs.1'):
        convert(tmp_path, source)


def test_two_names_of_one_parameter_are_refused(tmp_path):
    source = first_layout(SMALL)
    source['proposal_generator.fcos_head.ctrness.bias'] = source['rpn.head.centerness.bias']
    with pytest.raises(InputError, match='two of its keys'):
        convert(tmp_path, source)
