import pytest
import torch
from torch import nn

from mmdet_sag.models.layers import WinogradConv


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('shape', [(1, 20, 28), (3, 14, 14), (50, 7, 7), (2, 1, 1), (1, 61, 43), (1, 5, 900)])
@torch.inference_mode()
def test_it_is_the_conv_up_to_rounding(shape, memory_format, bias):
    torch.manual_seed(0)
    conv = nn.Conv2d(112, 128, 3, padding=1, bias=bias)
    x = torch.randn(shape[0], 112, *shape[1:]).to(memory_format=memory_format)
    fast = WinogradConv(conv)
    actual, exact = fast(x), conv.double()(x.double())
    torch.testing.assert_close(actual.double(), exact, rtol=0, atol=2e-5)
    assert actual.is_contiguous(memory_format=torch.channels_last) or shape[1:] == (1, 1)


@pytest.mark.parametrize(
    'options', [dict(stride=2), dict(padding=0), dict(dilation=2), dict(groups=2), dict(padding_mode='reflect')]
)
def test_it_suits_no_other_conv(options):
    assert WinogradConv.suits(nn.Conv2d(192, 192, 3, padding=1))
    assert not WinogradConv.suits(nn.Conv2d(192, 192, 3, **{'padding': 1, **options}))
    assert not WinogradConv.suits(nn.Conv2d(192, 64, 3, padding=1))
    assert not WinogradConv.suits(nn.Conv2d(192, 192, 1))


def test_what_it_does_not_compute_is_the_conv_itself():
    conv = nn.Conv2d(112, 112, 3, padding=1)
    fast = WinogradConv(conv)
    x = torch.randn(1, 112, 8, 8, requires_grad=True)
    assert torch.equal(fast(x), conv(x))
    fast(x).sum().backward()
    assert conv.weight.grad is not None
    with torch.inference_mode():
        with torch.autocast('cpu'):
            assert fast(x).dtype == torch.bfloat16
        assert torch.equal(fast(x.double()[:0].float()), conv(x[:0]))
