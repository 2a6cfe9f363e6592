from pathlib import Path

import pytest
import torch
from mmdet.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper, OptimWrapper, OptimWrapperDict
from support.tiny_training import HOOKS, FewWeights, few_weights_runner
from torch.utils._python_dispatch import TorchDispatchMode

from mmdet_sag.errors import InputError

SGD = dict(type='SGD', lr=1e-3, momentum=0.9)
EMA = dict(type='EMAHook', momentum=0.1, update_buffers=True, priority=49)


@OPTIM_WRAPPERS.register_module(force=True)
class CpuAmpOptimWrapper(AmpOptimWrapper):
    """Loss scaling as ``AmpOptimWrapper`` does it, which asks for an accelerator."""

    def __init__(self, init_scale: float = 1.0, **kwargs) -> None:
        OptimWrapper.__init__(self, **kwargs)
        self.loss_scaler = torch.amp.GradScaler('cpu', init_scale=init_scale)
        self._scale_update_param = None
        self.cast_dtype = torch.bfloat16


class BadGradients(FewWeights):
    """Of one image, the loss is finite and the gradient of ``layers.2.bias`` is not."""

    def forward(self, inputs: list, data_samples: list, mode: str = 'loss') -> dict:
        bad_image, self.bad_image = self.bad_image, ''
        losses = super().forward(inputs, data_samples, mode)
        self.bad_image = bad_image
        if bad_image in [sample.img_path for sample in data_samples]:
            losses['loss'] = losses['loss'] + (self.layers[2].bias * 0).sqrt().sum()
        return losses


class BigGradients(FewWeights):
    """Gradients that are finite, but too large for any weight after a step of them."""

    def forward(self, inputs: list, data_samples: list, mode: str = 'loss') -> dict:
        return dict(loss=super().forward(inputs, data_samples, mode)['loss'] + 3e38 * self.layers[2].bias.sum())


class Seen(Hook):
    """Remembers the images of each iteration."""

    def __init__(self) -> None:
        self.images = []

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        self.images.append([sample.img_path for sample in data_batch['data_samples']])


class Reads(TorchDispatchMode):
    """Counts the values that the host waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def wrapper(**options) -> dict:
    return dict(type='OptimWrapper', optimizer=SGD, **options)


def train(work_dir: Path, max_iters: int, model: type = FewWeights, bad_image: str = '', **options) -> FewWeights:
    torch.manual_seed(0)
    model = model(bad_image=bad_image)
    few_weights_runner(work_dir, max_iters, model, log_level='ERROR', **options).train()
    return model


def images_of(work_dir: Path, **options) -> list[list[str]]:
    """Images of the iterations of a training."""
    seen = Seen()
    train(work_dir / 'images', 12, custom_hooks=[seen], **options)
    return seen.images


def saved(work_dir: Path) -> dict:
    """The last checkpoint; all of them must be finite."""
    for path in work_dir.glob('*.pth'):
        checkpoint = torch.load(path)
        for part in ('state_dict', 'ema_state_dict'):
            for key, value in checkpoint.get(part, {}).items():
                assert value.isfinite().all(), f'{path}: {part}.{key}'
    return torch.load((work_dir / 'last_checkpoint').read_text())


def assert_same_weights(expected: dict, actual: dict) -> None:
    for key, value in expected.items():
        assert torch.equal(value, actual[key]), key


class MeasuresBadImage(Hook):
    """Computes the loss of an image, which is NaN, after each iteration, as a validation between two steps does."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        model, sample = runner.model, data_batch['data_samples'][0]
        model.bad_image = sample.img_path
        model.layers[1].eval()
        with torch.no_grad():
            assert model([torch.zeros(4)] * 2, [sample], mode='loss')['loss'].isnan()
        model.layers[1].train()
        model.bad_image = ''


def test_losses_without_gradients_are_not_those_of_a_step(tmp_path):
    train(tmp_path, 4, optim_wrapper=wrapper(accumulative_counts=2), custom_hooks=[MeasuresBadImage()])
    assert saved(tmp_path)['meta']['iter'] == 4


def test_a_nan_loss_stops_with_the_state_before_it_and_names_the_images(tmp_path):
    images = images_of(tmp_path)
    with pytest.raises(InputError, match=f'not finite in iteration 5: loss=nan on {", ".join(images[4])}. The state'):
        train(tmp_path / 'bad', 12, bad_image=images[4][0])
    checkpoint = saved(tmp_path / 'bad')
    assert checkpoint['meta']['iter'] == 4
    assert_same_weights(train(tmp_path / 'good', 4).state_dict(), checkpoint['state_dict'])


@pytest.mark.parametrize('bad', [4, 5, 6])
@pytest.mark.parametrize('hooks', [[], [EMA]], ids=['plain', 'EMA'])
def test_with_gradient_accumulation_every_iteration_since_the_step_counts(tmp_path, bad, hooks):
    options = dict(
        optim_wrapper=wrapper(accumulative_counts=3),
        param_scheduler=[dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=10)],
    )
    images = images_of(tmp_path, **options)
    message = f'the loss is not finite in iteration {bad}: loss=nan on {", ".join(images[bad - 1])}. The state'
    with pytest.raises(InputError, match=message):
        train(tmp_path / 'bad', 12, bad_image=images[bad - 1][0], custom_hooks=hooks, **options)
    checkpoint = saved(tmp_path / 'bad')
    assert checkpoint['meta']['iter'] == 3
    train(tmp_path / 'good', 3, custom_hooks=hooks, **options)
    good = torch.load(tmp_path / 'good' / 'iter_3.pth')
    raw = 'ema_state_dict' if hooks else 'state_dict'
    for key, value in good[raw].items():
        if key != 'steps':
            assert torch.equal(value, checkpoint[raw][key]), key
    assert checkpoint['param_schedulers'][0]['last_step'] == good['param_schedulers'][0]['last_step'] == 3
    assert checkpoint['optimizer']['param_groups'] == good['optimizer']['param_groups']


def test_a_run_that_was_stopped_goes_on_as_if_it_had_never_met_the_image(tmp_path):
    options = dict(optim_wrapper=wrapper(accumulative_counts=3))
    images = images_of(tmp_path, **options)
    with pytest.raises(InputError):
        train(tmp_path / 'bad', 12, bad_image=images[4][0], **options)
    path = (tmp_path / 'bad' / 'last_checkpoint').read_text()
    resumed = train(tmp_path / 'bad', 12, load_from=path, resume=True, **options)
    assert_same_weights(train(tmp_path / 'good', 12, **options).state_dict(), resumed.state_dict())


@pytest.mark.parametrize('clip_grad', [None, dict(max_norm=1.0), dict(type='value', clip_value=0.1)])
def test_gradients_that_are_not_finite_stop_though_the_loss_is(tmp_path, clip_grad):
    images = images_of(tmp_path)
    message = (
        'the gradients are not finite in iteration 5, though the losses are: '
        f'layers.2.bias on {", ".join(images[4])}. The state before it is saved'
    )
    with pytest.raises(InputError, match=message):
        options = dict(optim_wrapper=wrapper(clip_grad=clip_grad and dict(clip_grad)))
        train(tmp_path / 'bad', 12, BadGradients, images[4][0], custom_hooks=[EMA], **options)
    assert saved(tmp_path / 'bad')['meta']['iter'] == 4


def test_weights_that_a_step_made_infinite_are_never_written(tmp_path):
    hooks = {**HOOKS, 'checkpoint': {**HOOKS['checkpoint'], 'interval': 1}}
    fast = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=10.0))
    with pytest.raises(InputError, match=r'weights are not finite after iteration 1 \(layers.2.bias, 1 in all\)'):
        train(tmp_path, 12, BigGradients, optim_wrapper=fast, default_hooks=hooks)
    assert not list(tmp_path.glob('**/*.pth')) and not (tmp_path / 'last_checkpoint').exists()


def test_without_a_state_to_save_the_loss_is_named_all_the_same(tmp_path):
    fast = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=10.0))
    with pytest.raises(InputError, match=r'loss is not finite in iteration 2: .* is not saved: weights are not finite'):
        train(tmp_path, 12, BigGradients, optim_wrapper=fast)
    assert not list(tmp_path.glob('**/*.pth'))


def test_the_loss_scaler_may_leave_out_a_step_but_not_many_in_a_row(tmp_path):
    amp = dict(type='CpuAmpOptimWrapper', optimizer=SGD)
    images = images_of(tmp_path, optim_wrapper=amp)
    once = train(tmp_path / 'once', 12, bad_image=images[4][0], optim_wrapper=amp, custom_hooks=[EMA])
    assert saved(tmp_path / 'once')['meta']['iter'] == 12
    assert all(value.isfinite().all() for value in once.state_dict().values())

    hooks = {**HOOKS, 'loss_guard': dict(type='LossGuardHook', patience=3)}
    series = dict(type='CpuAmpOptimWrapper', optimizer=SGD, init_scale=1024.0)
    with pytest.raises(InputError, match='the loss scaler skipped 3 steps in a row'):
        train(tmp_path / 'series', 12, BigGradients, optim_wrapper=series, default_hooks=hooks, custom_hooks=[EMA])
    assert saved(tmp_path / 'series')['meta']['iter'] == 2


@pytest.mark.parametrize('kind', ['OptimWrapper', 'CpuAmpOptimWrapper'])
def test_a_step_costs_one_value_that_the_host_waits_for(tmp_path, kind):
    counts = []
    for name, guard in (('with', dict(loss_guard=dict(type='LossGuardHook'))), ('without', {})):
        options = dict(type=kind, optimizer=SGD, accumulative_counts=2, clip_grad=dict(max_norm=1.0))
        hooks = dict(checkpoint=dict(type='AtomicCheckpointHook', by_epoch=False, interval=1000), **guard)
        with Reads() as reads:
            train(tmp_path / name, 12, optim_wrapper=options, default_hooks=hooks, custom_hooks=[EMA])
        counts.append(reads.count)
    assert counts[0] - counts[1] == 6


class FrozenNorms(FewWeights):
    """Norms that keep the statistics that they have."""

    def train(self, mode: bool = True) -> 'FrozenNorms':
        super().train(mode)
        self.layers[1].eval()
        return self


class PretrainedNorms(FrozenNorms):
    """The same, with statistics of an earlier training."""

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.layers[1].running_mean.fill_(0.1)


def test_norms_frozen_on_random_weights_are_named_as_the_cause(tmp_path):
    images = images_of(tmp_path)
    backbone = dict(type='ResNet', norm_cfg=dict(type='BN', requires_grad=False), frozen_stages=2)
    config = Config(dict(model=dict(detector=dict(backbone=backbone))))
    options = r'model\.detector\.backbone\.norm_cfg\.requires_grad=True .*norm_eval=False .*frozen_stages=-1$'
    with pytest.raises(InputError, match=rf'never trained.*from the beginning with --cfg-options {options}'):
        train(tmp_path / 'random', 12, FrozenNorms, images[4][0], cfg=config)
    with pytest.raises(InputError, match='look at the annotations'):
        train(tmp_path / 'pretrained', 12, PretrainedNorms, images[4][0])


@pytest.mark.parametrize('weight, cause', [(1.0, 'never trained'), (torch.arange(1.0, 5.0), 'look at the annotations')])
def test_fixed_norms_are_untrained_unless_their_weights_hold_the_statistics(tmp_path, weight, cause):
    class FixedNorms(FrozenNorms):
        def __init__(self, **kwargs) -> None:
            super().__init__(**kwargs)
            norm = self.layers[1].requires_grad_(False)
            norm.weight.copy_(torch.as_tensor(weight))

    with pytest.raises(InputError, match=cause):
        train(tmp_path, 12, FixedNorms, images_of(tmp_path / 'first')[4][0])


def test_finite_losses_pass(tmp_path):
    train(tmp_path, 3)
    assert (tmp_path / 'iter_3.pth').is_file()


class TwoOptimizers(FewWeights):
    """The first and the last layer have optimizers of their own."""

    def train_step(self, data: dict, optim_wrapper: OptimWrapperDict) -> dict:
        loss, logged = self.parse_losses(self(**data, mode='loss'))
        loss.backward()
        for part in optim_wrapper.values():
            part.step()
            part.zero_grad()
        return logged


@OPTIM_WRAPPER_CONSTRUCTORS.register_module(force=True)
class TwoOptimizersConstructor:
    def __init__(self, **config) -> None:
        pass

    def __call__(self, model: TwoOptimizers) -> OptimWrapperDict:
        layers = dict(first=model.layers[0], last=model.layers[2])
        return OptimWrapperDict(
            **{name: OptimWrapper(torch.optim.SGD(layer.parameters(), lr=1e-3)) for name, layer in layers.items()}
        )


def test_several_optimizers_are_guarded_and_resumed(tmp_path):
    options = dict(optim_wrapper=dict(constructor='TwoOptimizersConstructor', first={}, last={}))
    train(tmp_path / 'straight', 6, TwoOptimizers, **options)
    with pytest.raises(InputError, match='the loss is not finite in iteration 4'):
        train(tmp_path, 6, TwoOptimizers, images_of(tmp_path)[3][0], **options)
    assert saved(tmp_path)['meta']['iter'] == 3
    train(tmp_path, 6, TwoOptimizers, **options, load_from=str(tmp_path / 'iter_3.pth'), resume=True)
    assert_same_weights(saved(tmp_path / 'straight')['state_dict'], saved(tmp_path)['state_dict'])
