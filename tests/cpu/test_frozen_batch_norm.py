import copy

import pytest
import torch
from torch import nn

from mmdet_sag.cpu.frozen_batch_norm import FrozenBatchNorm


def make_norm(frozen: bool) -> nn.BatchNorm2d:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(5).eval().requires_grad_(not frozen)
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
        tensor.uniform_(0.5, 2)
    return norm


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_results_and_gradients_are_those_of_the_batch_norm(memory_format):
    norm = make_norm(frozen=True)
    x = torch.randn(2, 5, 7, 6).to(memory_format=memory_format).requires_grad_()
    actual, expected = FrozenBatchNorm(norm)(x), norm(x)
    torch.testing.assert_close(actual, expected)
    assert actual.is_contiguous(memory_format=memory_format)
    grad = torch.randn_like(x)
    torch.testing.assert_close(*(torch.autograd.grad(y, x, grad) for y in (actual, expected)))


def test_it_follows_statistics_that_are_loaded_later():
    norm = make_norm(frozen=True)
    fast = FrozenBatchNorm(norm)
    x = torch.randn(2, 5, 7, 6)
    norm.load_state_dict(nn.BatchNorm2d(5).state_dict())
    torch.testing.assert_close(fast(x), x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('training', [True, False])
def test_a_batch_norm_that_learns_stays_one(training):
    norm = make_norm(frozen=False).train(training)
    same = copy.deepcopy(norm)
    x = torch.randn(2, 5, 7, 6)
    FrozenBatchNorm(norm)(x).square().sum().backward()
    same(x).square().sum().backward()
    assert torch.equal(norm.weight.grad, same.weight.grad)
    assert torch.equal(norm.running_mean, same.running_mean)


def test_it_suits_what_has_statistics_and_parameters():
    assert FrozenBatchNorm.suits(nn.BatchNorm2d(5))
    for other in (nn.BatchNorm2d(5, affine=False), nn.BatchNorm2d(5, track_running_stats=False), nn.BatchNorm1d(5)):
        assert not FrozenBatchNorm.suits(other)
