"""The deprecated optimizer is AdamW, and states move between all of its kinds."""

import copy

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

PLAIN, FUSED, DEPRECATED = dict(type='AdamW'), dict(type='AdamW', fused=True), dict(type='FusedAdamW')


def make_model():
    torch.manual_seed(0)
    # No bias before a norm: Adam makes its gradient, which is rounding only, as large as any other.
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3))


def make_wrapper(model, kind):
    optimizer = dict(kind, lr=0.01, weight_decay=0.05)
    cfg = dict(type='OptimWrapper', optimizer=optimizer, clip_grad=dict(max_norm=1))
    return build_optim_wrapper(model, dict(cfg, paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0)))


def train(model, wrapper, steps=4):
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        wrapper.update_params(model(images).square().mean())
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize('kind', [FUSED, DEPRECATED])
def test_steps_are_those_of_adamw(kind):
    plain, fused = make_model(), make_model()
    expected = train(plain, make_wrapper(plain, PLAIN))
    torch.testing.assert_close(train(fused, make_wrapper(fused, kind)), expected, rtol=1e-5, atol=1e-7)


def test_the_deprecated_optimizer_is_adamw():
    optimizer = make_wrapper(make_model(), DEPRECATED).optimizer
    assert type(optimizer) is torch.optim.AdamW and optimizer.defaults['fused']


@pytest.mark.parametrize('kinds', [(PLAIN, FUSED), (FUSED, PLAIN), (DEPRECATED, FUSED), (DEPRECATED, PLAIN)])
def test_a_run_goes_on_from_the_state_of_another_kind(kinds):
    model = make_model()
    wrapper = make_wrapper(model, kinds[0])
    train(model, wrapper)
    resumed = copy.deepcopy(model)
    resumed_wrapper = make_wrapper(resumed, kinds[1])
    resumed_wrapper.load_state_dict(copy.deepcopy(wrapper.state_dict()))
    torch.testing.assert_close(train(resumed, resumed_wrapper), train(model, wrapper), rtol=1e-5, atol=1e-7)
