import pytest
import torch
from mmdet.registry import MODELS
from torch import nn

from mmdet_sag.models.backbones.vovnet import OSABlock, VoVNet


@pytest.mark.parametrize('arch', VoVNet.arch_settings)
def test_every_variant_outputs_strides_4_to_32(arch):
    with torch.device('meta'):
        model = MODELS.build(dict(type='VoVNet', arch=arch))
        outs = model(torch.empty(2, 3, 96, 128))
    channels = VoVNet.arch_settings[arch].out_channels
    assert [tuple(out.shape) for out in outs] == [
        (2, c, 96 // stride, 128 // stride) for c, stride in zip(channels, (4, 8, 16, 32))
    ]


@pytest.mark.parametrize(
    ('arch', 'blocks'), [('V-19', [1, 1, 1, 1]), ('V-39', [1, 1, 2, 2]), ('V-57', [1, 1, 4, 3]), ('V-99', [1, 3, 9, 3])]
)
def test_every_block_of_a_stage_but_the_first_adds_its_input(arch, blocks):
    with torch.device('meta'):
        model = MODELS.build(dict(type='VoVNet', arch=arch))
    identities = [[b.identity for b in stage if isinstance(b, OSABlock)] for stage in model.stages]
    assert identities == [[False] + [True] * (count - 1) for count in blocks]


def test_odd_sizes_are_rounded_up_by_the_pooling_layers():
    model = MODELS.build(dict(type='VoVNet', arch='V-19-slim-dw')).eval()
    outs = model(torch.randn(1, 3, 100, 68))
    assert [tuple(out.shape[2:]) for out in outs] == [(25, 17), (12, 8), (6, 4), (3, 2)]


def test_frozen_stages_are_neither_trained_nor_updated():
    model = MODELS.build(dict(type='VoVNet', arch='V-19-slim-dw', frozen_stages=2)).train()
    frozen = [model.stem, model.stages[0], model.stages[1]]
    assert not any(p.requires_grad for module in frozen for p in module.parameters())
    assert not any(m.training for module in frozen for m in module.modules() if isinstance(m, nn.BatchNorm2d))
    assert all(p.requires_grad for p in model.stages[2].parameters())
    assert all(m.training for m in model.stages[2].modules() if isinstance(m, nn.BatchNorm2d))


def test_frozen_norm_layers_keep_weights_and_statistics():
    norm_cfg = dict(type='BN', requires_grad=False)
    model = MODELS.build(dict(type='VoVNet', arch='V-19-slim-dw', norm_cfg=norm_cfg, norm_eval=True)).train()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]
    sum(out.sum() for out in model(torch.randn(2, 3, 64, 64))).backward()
    assert all(norm.weight.grad is None for norm in norms)
    assert all(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, before))
    assert model.stem[0].conv.weight.grad is not None


def test_deformable_convs_start_as_plain_convs_of_the_last_three_stages():
    dcn = dict(type='DCNv2', deform_groups=1)
    model = MODELS.build(dict(type='VoVNet', arch='V-19-slim', dcn=dcn))
    model.init_weights()
    offsets = {name: m for name, m in model.named_modules() if name.endswith('conv_offset')}
    assert len(offsets) == 3 * 3
    assert not any(name.startswith('stages.0') for name in offsets)
    assert all(m.out_channels == 27 and not m.weight.any() and not m.bias.any() for m in offsets.values())
    assert len(model.eval()(torch.randn(1, 3, 64, 64))) == 4


@pytest.mark.parametrize('others', [[], [dict(type='Kaiming', layer='Conv2d')]], ids=['alone', 'after others'])
@pytest.mark.parametrize('has_offsets', [True, False], ids=['offsets', 'plain'])
def test_pretrained_offsets_are_kept_and_missing_ones_start_at_zero(others, has_offsets, tmp_path):
    dcn = dict(type='DCNv2', deform_groups=1)
    state_dict = MODELS.build(dict(type='VoVNet', arch='V-19-slim', dcn=dcn if has_offsets else None)).state_dict()
    state_dict = {key: torch.rand_like(value) if 'offset' in key else value for key, value in state_dict.items()}
    torch.save(state_dict, tmp_path / 'pretrained.pth')
    init_cfg = [*others, dict(type='Pretrained', checkpoint=str(tmp_path / 'pretrained.pth'))]
    model = MODELS.build(dict(type='VoVNet', arch='V-19-slim', dcn=dcn, init_cfg=init_cfg))
    model.init_weights()
    offsets = {key: value for key, value in model.state_dict().items() if 'offset' in key}
    assert len(offsets) == 2 * 3 * 3
    assert all(torch.equal(value, state_dict.get(key, torch.zeros_like(value))) for key, value in offsets.items())


def test_checkpointed_blocks_compute_the_same_gradients():
    torch.manual_seed(0)
    plain = MODELS.build(dict(type='VoVNet', arch='V-19-slim-dw', norm_eval=True)).train()
    checkpointed = MODELS.build(dict(type='VoVNet', arch='V-19-slim-dw', norm_eval=True, with_cp=True)).train()
    checkpointed.load_state_dict(plain.state_dict())
    images = torch.randn(1, 3, 64, 64)
    for model in (plain, checkpointed):
        sum(out.sum() for out in model(images)).backward()
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(checkpointed.get_parameter(name).grad, parameter.grad)


@pytest.mark.parametrize('channels', [1, 4])
def test_weights_for_other_numbers_of_channels_see_a_grey_image_as_those_of_three_do(tmp_path, channels):
    colour = MODELS.build(dict(type='VoVNet', arch='V-19-slim-dw')).eval()
    torch.save(colour.state_dict(), tmp_path / 'pretrained.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'pretrained.pth'))
    model = MODELS.build(dict(type='VoVNet', arch='V-19-slim-dw', in_channels=channels, init_cfg=init_cfg)).eval()
    model.init_weights()
    grey = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        for out, expected in zip(model(grey.expand(-1, channels, -1, -1)), colour(grey.expand(-1, 3, -1, -1))):
            torch.testing.assert_close(out, expected)


def test_an_unknown_variant_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown arch 'V-40', choose from V-19-slim-dw, .*V-99"):
        MODELS.build(dict(type='VoVNet', arch='V-40'))


def test_dcn_in_a_depthwise_variant_is_refused():
    with pytest.raises(ValueError, match='V-19-dw has depthwise convs'):
        MODELS.build(dict(type='VoVNet', arch='V-19-dw', dcn=dict(type='DCNv2', deform_groups=1)))


def test_the_headless_mobilenet_has_no_parameter_that_no_output_uses():
    model = MODELS.build(dict(type='HeadlessMobileNetV2'))
    model.eval()
    outs = model(torch.randn(1, 3, 64, 64))
    assert [tuple(out.shape[1:]) for out in outs] == [(32, 8, 8), (96, 4, 4), (320, 2, 2)]
    sum(out.sum() for out in outs).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
