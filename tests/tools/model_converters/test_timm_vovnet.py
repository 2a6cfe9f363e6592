import pytest
import torch
from mmdet.registry import MODELS
from support.converter import checkpoint_conversion, timm_vovnet

from mmdet_sag.errors import InputError

convert_checkpoint = checkpoint_conversion.convert_checkpoint
IMAGENET_MEAN, IMAGENET_STD = timm_vovnet.IMAGENET_MEAN, timm_vovnet.IMAGENET_STD
fold_input_convention = timm_vovnet.fold_input_convention

CONFIG_MEAN = torch.tensor([103.53, 116.28, 123.675]).view(3, 1, 1)


def randomised(model):
    """Give the norm layers other than their initial statistics."""
    for name, value in model.state_dict().items():
        if name.endswith('running_mean'):
            value.normal_(0, 0.2)
        elif name.endswith('running_var'):
            value.uniform_(0.5, 2)
    return model.eval()


def vovnet(arch, **options):
    return randomised(MODELS.build(dict(type='VoVNet', arch=arch, **options)))


def timm_names(model):
    """The weights of one of our VoVNets by timm's names, with eSE only in the last block of a stage."""
    state_dict = {'head.fc.weight': torch.zeros(1000, 1024), 'head.fc.bias': torch.zeros(1000)}
    for key, value in model.state_dict().items():
        if key.startswith('stages'):
            _, stage, block, rest = key.split('.', 3)
            block = int(block) - (stage != '0')
            last = len(model.stages[int(stage)]) - 1 - (stage != '0')
            if rest.startswith('ese') and block != last:
                continue
            key = f'stages.{stage}.blocks.{block}.{rest}'
        for ours, theirs in (
            ('.convs.', '.conv_mid.'),
            ('.concat.', '.conv_concat.'),
            ('.reduction.', '.conv_reduction.'),
            ('.depthwise_conv.conv.', '.conv_dw.'),
            ('.pointwise_conv.conv.', '.conv_pw.'),
            ('.pointwise_conv.bn.', '.bn.'),
            ('.ese.fc.', '.attn.fc.'),
        ):
            key = key.replace(ours, theirs)
        state_dict[key] = value
    return state_dict


def assert_same_features(timm_features, features):
    for expected, got in zip(timm_features, features):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def image_pair(mean=IMAGENET_MEAN, std=IMAGENET_STD):
    """One image as timm's models take it and as the configs here feed it."""
    bgr = torch.randint(0, 256, (1, 3, 64, 96)).float()
    rgb = bgr.flip(1) / 255
    return (rgb - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1), bgr - CONFIG_MEAN


@pytest.mark.parametrize('arch', ['V-19-slim-dw', 'V-19-dw', 'V-19-slim', 'V-19', 'V-39', 'V-57', 'V-99'])
def test_timm_weights_are_mapped_onto_every_variant(arch, tmp_path):
    with torch.device('meta'):
        source = timm_names(MODELS.build(dict(type='VoVNet', arch=arch)))
    numbered = {
        key: torch.tensor(float(i)).expand(value.shape) for i, (key, value) in enumerate(source.items()) if value.ndim
    }
    torch.save(numbered, tmp_path / 'timm.pth')
    conversion = convert_checkpoint(tmp_path / 'timm.pth', tmp_path / 'converted.pth')
    assert conversion.model == f'{arch} backbone'
    converted = torch.load(tmp_path / 'converted.pth', weights_only=True)['state_dict']
    for key, value in numbered.items():
        assert key.startswith(('head.', 'stem.0.')) or any(torch.equal(value, other) for other in converted.values()), (
            key
        )


@pytest.mark.parametrize('mean', [IMAGENET_MEAN, (0.5, 0.5, 0.5)])
def test_the_input_convention_is_folded_into_the_stem(mean):
    torch.manual_seed(0)
    model = vovnet('V-19-slim')
    timm_image, image = image_pair(mean)
    with torch.no_grad():
        expected = model.stem(timm_image)
        model.load_state_dict(fold_input_convention(model.state_dict(), mean))
        got = model.stem(image)
    if mean != IMAGENET_MEAN:
        # Zero padding stands for another colour: the border differs.
        expected, got = expected[..., 2:-2, 2:-2], got[..., 2:-2, 2:-2]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_a_block_without_ese_in_timm_keeps_its_features_and_can_learn_one(tmp_path):
    torch.manual_seed(0)
    model = vovnet('V-39')
    source = timm_names(model)
    # Blocks 4.1 and 5.1 have no eSE there.
    for block in (model.stages[2][1], model.stages[3][1]):
        block.ese = torch.nn.Identity()
    timm_image, image = image_pair()
    with torch.no_grad():
        expected = model(timm_image)
    torch.save(source, tmp_path / 'timm.pth')
    conversion = convert_checkpoint(tmp_path / 'timm.pth', tmp_path / 'converted.pth')
    assert any('2 blocks without eSE' in note for note in conversion.notes)

    converted = vovnet('V-39', init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'converted.pth')))
    converted.init_weights()
    features = converted(image)
    assert_same_features(expected, features)
    features[-1].square().mean().backward()
    assert converted.stages[3][1].ese.fc.bias.grad.abs().max() > 0


@pytest.mark.parametrize('name', ['ese_vovnet19b_dw', 'ese_vovnet19b_slim', 'ese_vovnet39b'])
def test_features_are_those_of_timm(name, tmp_path):
    timm = pytest.importorskip('timm')
    torch.manual_seed(0)
    theirs = randomised(timm.create_model(name))
    torch.save(theirs.state_dict(), tmp_path / 'timm.pth')
    conversion = convert_checkpoint(tmp_path / 'timm.pth', tmp_path / 'converted.pth')
    ours = vovnet(
        conversion.model.split()[0],
        init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'converted.pth')),
    )
    ours.init_weights()
    timm_image, image = image_pair()
    with torch.no_grad():
        assert_same_features(theirs.forward_intermediates(timm_image, intermediates_only=True)[1:], ours(image))


def test_a_timm_model_of_another_architecture_is_refused(tmp_path):
    source = timm_names(vovnet('V-39'))
    # vovnet39a has neither eSE nor residual connections.
    source = {key: value for key, value in source.items() if '.attn.' not in key}
    torch.save(source, tmp_path / 'timm.pth')
    with pytest.raises(InputError, match='closest') as error:
        convert_checkpoint(tmp_path / 'timm.pth', tmp_path / 'converted.pth')
    assert 'ese.fc.weight' in str(error.value)


def test_a_std_that_is_not_positive_is_refused(tmp_path):
    torch.save({}, tmp_path / 'timm.pth')
    with pytest.raises(InputError, match='must be positive'):
        convert_checkpoint(tmp_path / 'timm.pth', tmp_path / 'converted.pth', timm_std=(1, 0, 1))
