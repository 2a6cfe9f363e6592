import pytest
import torch
from mmdet.registry import MODELS

pytestmark = pytest.mark.usefixtures('default_device')


@pytest.mark.parametrize('kernel_size', [3, 7])
def test_attention_is_the_sigmoid_of_a_conv_over_channel_mean_and_max(kernel_size):
    module = MODELS.build(dict(type='SpatialAttention', kernel_size=kernel_size))
    x = torch.randn(2, 5, 9, 11)
    pooled = torch.stack([x.mean(1), x.max(1).values], dim=1)
    expected = torch.nn.functional.conv2d(pooled, module.conv.weight, padding=kernel_size // 2).sigmoid()
    out, attention = module(x, return_attention=True)
    torch.testing.assert_close(attention, expected)
    torch.testing.assert_close(out, x * expected)
    torch.testing.assert_close(module(x), out)


def test_the_mean_comes_before_the_max():
    module = MODELS.build(dict(type='SpatialAttention'))
    torch.nn.init.zeros_(module.conv.weight)
    module.conv.weight.data[0, 0, 1, 1] = 1.0
    x = torch.randn(1, 4, 6, 6)
    _, attention = module(x, return_attention=True)
    torch.testing.assert_close(attention, x.mean(1, keepdim=True).sigmoid())


def test_a_hook_reads_the_map_of_a_forward_that_happens_anyway():
    module = MODELS.build(dict(type='SpatialAttention'))
    maps = []
    module.gate.register_forward_hook(lambda *args: maps.append(args[-1]))
    x = torch.randn(1, 4, 6, 6)
    module(x)
    assert len(maps) == 1
    torch.testing.assert_close(maps[0], module(x, return_attention=True)[1])


def test_other_kernel_sizes_are_refused():
    with pytest.raises(ValueError, match='kernel_size must be 3 or 7, got 5'):
        MODELS.build(dict(type='SpatialAttention', kernel_size=5))


def test_it_is_a_plugin_layer_of_a_backbone():
    plugin = dict(cfg=dict(type='SpatialAttention'), stages=(False, True, True, True), position='after_conv3')
    resnet = MODELS.build(dict(type='ResNet', depth=50, plugins=[plugin]))
    names = [name for name, module in resnet.named_modules() if type(module).__name__ == 'SpatialAttention']
    assert len(names) == 4 + 6 + 3
    assert resnet(torch.randn(1, 3, 64, 64))[-1].shape == (1, 2048, 2, 2)
