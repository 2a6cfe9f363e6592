from types import SimpleNamespace

import pytest
from mmdet.registry import HOOKS
from mmengine.logging import MessageHub


@pytest.mark.parametrize(
    'data_samples', [[0, 0], dict(sup_weak=[0, None], sup_strong=[0, None], unsup_teacher=[None, 0])]
)
def test_throughput_is_the_images_of_a_step_over_its_time(monkeypatch, data_samples):
    clock = SimpleNamespace(now=10.0)
    clock.time = lambda: clock.now
    monkeypatch.setattr('mmengine.hooks.iter_timer_hook.time', clock)
    hub = MessageHub('throughput')
    runner = SimpleNamespace(message_hub=hub, iter=0, max_iters=10)
    hook = HOOKS.build(dict(type='ThroughputTimerHook'))
    hook.before_train(runner)
    hook.before_train_epoch(runner)
    batch = dict(inputs=[0, 0], data_samples=data_samples)
    clock.now = 10.5
    hook.before_train_iter(runner, 0, batch)
    clock.now = 14.0
    hook.after_train_iter(runner, 0, batch)
    assert hub.get_scalar('train/data_time').current() == 0.5
    assert hub.get_scalar('train/time').current() == 4.0
    assert hub.get_scalar('train/images_per_s').current() == pytest.approx(0.5)
    assert hub.get_scalar('train/ram_mb').current() > 50
