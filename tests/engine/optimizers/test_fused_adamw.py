import copy

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from mmdet_sag.engine.optimizers import FusedAdamW

OPTIMIZER = dict(lr=0.01, weight_decay=0.05)


def make_model():
    torch.manual_seed(0)
    # No bias before a norm: its gradient is rounding alone, which Adam makes as large as any other.
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3))


def make_wrapper(model, kind):
    cfg = dict(type='OptimWrapper', optimizer=dict(type=kind, **OPTIMIZER), clip_grad=dict(max_norm=1))
    return build_optim_wrapper(model, dict(cfg, paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0)))


def train(model, wrapper, steps=4):
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        wrapper.update_params(model(images).square().mean())
    return [parameter.detach().clone() for parameter in model.parameters()]


def refuse_fused(monkeypatch):
    plain = torch.optim.AdamW.__init__

    def init(self, params, *args, fused=None, **kwargs):
        plain(self, params, *args, fused=False, **kwargs)
        if fused:
            for group in params:
                group['fused'] = True
            raise RuntimeError('`fused=True` requires all the params to be on a supported device')

    monkeypatch.setattr(torch.optim.AdamW, '__init__', init)


def test_steps_are_those_of_adamw():
    plain, fused = make_model(), make_model()
    expected = train(plain, make_wrapper(plain, 'AdamW'))
    torch.testing.assert_close(train(fused, make_wrapper(fused, 'FusedAdamW')), expected, rtol=1e-5, atol=1e-7)


def test_where_torch_has_no_such_kernel_it_is_adamw(monkeypatch):
    refuse_fused(monkeypatch)
    plain, fused = make_model(), make_model()
    wrapper = make_wrapper(fused, 'FusedAdamW')
    assert not any(group['fused'] for group in wrapper.optimizer.param_groups)
    torch.testing.assert_close(train(fused, wrapper), train(plain, make_wrapper(plain, 'AdamW')))


def test_other_errors_are_told():
    with pytest.raises(ValueError, match='learning rate'):
        FusedAdamW(make_model().parameters(), lr=-1)


@pytest.mark.parametrize('kinds', [('AdamW', 'FusedAdamW'), ('FusedAdamW', 'AdamW')])
def test_a_run_goes_on_from_the_state_of_the_other(kinds):
    model = make_model()
    wrapper = make_wrapper(model, kinds[0])
    train(model, wrapper)
    resumed = copy.deepcopy(model)
    resumed_wrapper = make_wrapper(resumed, kinds[1])
    fused = resumed_wrapper.optimizer.param_groups[0]['fused']
    resumed_wrapper.load_state_dict(copy.deepcopy(wrapper.state_dict()))
    if kinds[1] == 'FusedAdamW':
        assert all(group['fused'] == fused for group in resumed_wrapper.optimizer.param_groups)
    torch.testing.assert_close(train(resumed, resumed_wrapper), train(model, wrapper), rtol=1e-5, atol=1e-7)
