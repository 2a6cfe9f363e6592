import pytest
import torch
from mmdet.registry import MODELS
from torch import nn
from torchvision.ops import DropBlock2d

from mmdet_sag.errors import InputError

# Inputs, outputs and kernel of each conv in the order of the paper's figure, those of the decoder after their
# transposed conv. The attention has no bias.
ENCODER = [(3, 16), (16, 16), (16, 32), (32, 32), (32, 64), (64, 64)]
BOTTLENECK = [(64, 128), (128, 128)]
DECODER = [(128, 64), (64, 64), (64, 32), (32, 32), (32, 16), (16, 16)]
UPSAMPLING = [(128, 64), (64, 32), (32, 16)]


def build(**options) -> nn.Module:
    torch.manual_seed(0)
    return MODELS.build(dict(type='SAUNet', **options))


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_layers_have_the_parameters_of_the_papers_table():
    model = build()
    convs = [*ENCODER, *BOTTLENECK, *DECODER]
    found = [(m.in_channels, m.out_channels) for m in model.modules() if type(m) is nn.Conv2d and m.bias is not None]
    assert sorted(found) == sorted(convs)
    ups = [(m.in_channels, m.out_channels) for m in model.upsample]
    assert sorted(ups) == sorted(UPSAMPLING)
    weights = sum(9 * i * o + o for i, o in (*convs, *UPSAMPLING))
    norms = sum(2 * o for _, o in convs)
    attention, head = 7 * 7 * 2, 16 + 1
    assert num_parameters(model) == weights + norms + attention
    assert num_parameters(model) + head == 537_299
    assert num_parameters(build(attention=False)) + head == 537_299 - attention
    statistics = [buffer for name, buffer in model.named_buffers() if 'running' in name]
    assert sum(buffer.numel() for buffer in statistics) == norms == 1_408


@pytest.mark.usefixtures('default_device')
def test_the_attention_stands_between_the_convs_of_the_bottleneck():
    model, plain = build().eval(), build(attention=False).eval()
    gate = model.bottleneck[1].conv
    nn.init.zeros_(gate.weight)
    names = [name for name in model.state_dict() if not name.startswith('bottleneck.1.')]
    plain.load_state_dict(dict(zip(plain.state_dict(), (model.state_dict()[name] for name in names), strict=True)))
    # Without weights, its map is 0.5 everywhere.
    with torch.no_grad():
        plain.bottleneck[1][0].weight /= 2
        image = torch.randn(1, 3, 64, 48)
        (expected,) = plain(image)
        (found,) = model(image)
    assert found.shape == (1, 16, 64, 48)
    torch.testing.assert_close(found, expected)


def test_each_conv_drops_blocks_in_training_only():
    model = build(drop_prob=0.3)
    for block in model.modules():
        if isinstance(block, nn.Sequential) and isinstance(block[0], nn.Conv2d):
            conv, drop, norm, relu = block
            assert isinstance(norm, nn.BatchNorm2d) and isinstance(relu, nn.ReLU)
            assert (drop.p, drop.block_size) == (0.3, 7)
    drops = [module for module in model.modules() if isinstance(module, DropBlock2d)]
    assert len(drops) == len([*ENCODER, *BOTTLENECK, *DECODER])
    drop = drops[0].train()
    dropped = drop(torch.ones(4, 64, 56, 56))
    # What is left is scaled so that the mean stays, and whole blocks of 7x7 are missing: a seed hits an element with a
    # chance of (56 / 50)^2 * 0.3 / 49, away from the edges any of 49 seeds does.
    assert dropped.mean().item() == pytest.approx(1, abs=1e-4)
    share = (dropped[..., 6:-6, 6:-6] == 0).float().mean().item()
    assert share == pytest.approx(1 - (1 - (56 / 50) ** 2 * 0.3 / 49) ** 49, abs=0.01)
    assert torch.equal(drop.eval()(torch.ones(1, 1, 9, 9)), torch.ones(1, 1, 9, 9))


def test_images_that_do_not_fit_the_levels_or_the_blocks_are_refused():
    with pytest.raises(InputError, match='64x60 pixels, and needs multiples of 8: set model.data_preprocessor.size_d'):
        build()(torch.zeros(1, 3, 64, 60))
    with pytest.raises(InputError, match='blocks of 7x7 features, and the bottleneck has 8x6: .* at least 56 pixels'):
        build()(torch.zeros(1, 3, 64, 48))
    assert build(drop_prob=0)(torch.zeros(1, 3, 64, 48))[0].shape == (1, 16, 64, 48)
