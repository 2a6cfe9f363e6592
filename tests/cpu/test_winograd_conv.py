import copy
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from mmdet_sag import cpu
from mmdet_sag.cpu import winograd_conv, winograd_transforms
from mmdet_sag.cpu.winograd_conv import WinogradConv


@pytest.fixture(params=['compiled', 'matrices'], autouse=True)
def transforms(request, monkeypatch):
    """All tests hold with Numba and without."""
    if request.param == 'matrices':
        monkeypatch.setattr(winograd_conv, 'transforms', lambda: winograd_transforms)
        return winograd_transforms
    pytest.importorskip('numba')
    return winograd_conv.transforms()


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


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('shape', [(1, 30, 40), (4, 14, 14), (50, 7, 7), (60, 1, 1), (1, 61, 43)])
def test_its_gradients_are_those_of_the_conv_up_to_rounding(shape, bias):
    torch.manual_seed(0)
    conv = nn.Conv2d(112, 128, 3, padding=1, bias=bias)
    exact = copy.deepcopy(conv).double()
    x = torch.randn(shape[0], 112, *shape[1:], requires_grad=True)
    exact_x = x.detach().double().requires_grad_()
    # Not contiguous, as gradients may be.
    grad = torch.randn(shape[0], *shape[1:], 128).permute(0, 3, 1, 2)
    WinogradConv(conv, frozen=False)(x).backward(grad)
    exact(exact_x).backward(grad.double())
    pairs = [(x.grad, exact_x.grad), *((p.grad, e.grad) for p, e in zip(conv.parameters(), exact.parameters()))]
    assert len(pairs) == 2 + bias
    for actual, expected in pairs:
        torch.testing.assert_close(actual.double(), expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_trained_it_follows_its_weights():
    torch.manual_seed(0)
    conv = nn.Conv2d(112, 112, 3, padding=1)
    fast = WinogradConv(conv, frozen=False)
    x = torch.randn(1, 112, 30, 30)
    for enabled in (True, False):
        with torch.no_grad():
            conv.weight.mul_(2)
        with torch.set_grad_enabled(enabled):
            torch.testing.assert_close(fast(x), conv(x), rtol=0, atol=5e-5)


def test_what_is_not_trained_gets_no_gradient():
    conv = nn.Conv2d(112, 112, 3, padding=1).requires_grad_(False)
    fast = WinogradConv(conv, frozen=False)
    assert not fast(torch.randn(1, 112, 30, 30)).requires_grad
    fast(torch.randn(1, 112, 30, 30, requires_grad=True)).sum().backward()
    assert conv.weight.grad is None and conv.bias.grad is None


@pytest.mark.parametrize(
    'options', [dict(stride=2), dict(padding=0), dict(dilation=2), dict(groups=2), dict(padding_mode='reflect')]
)
def test_it_suits_no_other_conv(options):
    assert WinogradConv.suits(nn.Conv2d(192, 192, 3, padding=1))
    assert not WinogradConv.suits(nn.Conv2d(192, 192, 3, **{'padding': 1, **options}))
    assert not WinogradConv.suits(nn.Conv2d(192, 32, 3, padding=1))
    assert not WinogradConv.suits(nn.Conv2d(192, 192, 1))


@pytest.mark.parametrize('frozen', [True, False])
def test_what_it_does_not_compute_is_the_conv_itself(frozen):
    conv = nn.Conv2d(112, 112, 3, padding=1)
    fast = WinogradConv(conv, frozen)
    x = torch.randn(1, 112, 12, 12, requires_grad=True)
    # With gradients, the features are too small to pay for transforming the filters.
    assert torch.equal(fast(x), conv(x))
    fast(x).sum().backward()
    assert conv.weight.grad is not None
    with torch.inference_mode():
        with torch.autocast('cpu'):
            assert fast(x).dtype == torch.bfloat16
        assert torch.equal(fast(x.double()[:0].float()), conv(x[:0]))


def test_what_inference_began_training_goes_on_with():
    conv = nn.Conv2d(112, 112, 3, padding=1)
    x = torch.randn(1, 112, 60, 60)
    with torch.inference_mode():
        expected = WinogradConv(conv)(x)
    fast = WinogradConv(conv, frozen=False)(x)
    fast.sum().backward()
    torch.testing.assert_close(fast.detach(), expected.clone(), rtol=0, atol=2e-5)


@torch.inference_mode()
def test_what_is_not_finite_is_not_lost():
    conv = nn.Conv2d(112, 112, 3, padding=1)
    for value in (torch.nan, torch.inf):
        x = torch.zeros(1, 112, 9, 9)
        x[0, 0, 4, 4] = value
        assert not WinogradConv(conv)(x)[..., 4, 4].isfinite().any()


def test_threads_share_the_work_and_not_their_memory():
    torch.manual_seed(0)
    conv = nn.Conv2d(112, 128, 3, padding=1)
    fast = WinogradConv(conv)
    images = [torch.randn(1, 112, 30 + i, 40) for i in range(8)]
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch.inference_mode():
            expected = [conv(image) for image in images]
        with ThreadPoolExecutor(4) as pool:
            actual = list(pool.map(torch.inference_mode()(fast), images))
    finally:
        torch.set_num_threads(before)
    for fast_image, image in zip(actual, expected):
        torch.testing.assert_close(fast_image, image, rtol=0, atol=2e-5)


def test_without_numba_matrices_are_used(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, 'numba', None)
    monkeypatch.delitem(sys.modules, 'mmdet_sag.cpu.winograd_kernels', raising=False)
    monkeypatch.delattr(cpu, 'winograd_kernels', raising=False)
    assert winograd_conv.transforms.__wrapped__() is winograd_transforms
