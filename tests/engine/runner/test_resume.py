import pytest
import torch
from mmengine.config import Config
from mmengine.runner import runner as runner_module
from support.same_state import assert_same
from support.tiny_training import build_runner, rectangles_config, write_rectangles

from mmdet_sag.engine.checkpoint_files import newest_checkpoint


@pytest.fixture(scope='module')
def config(tmp_path_factory) -> Config:
    data = tmp_path_factory.mktemp('data') / 'rectangles'
    write_rectangles(data)
    return rectangles_config(data)


LOOPS = dict(
    iterations=dict(_delete_=True, type='ReproducibleIterBasedTrainLoop', max_iters=6, val_interval=1000),
    epochs=dict(_delete_=True, type='ReproducibleEpochBasedTrainLoop', max_epochs=2, val_interval=1000),
)


@pytest.fixture
def on_device(device, monkeypatch):
    """Options with which trainings there are equal: a GPU adds gradients in any order unless it is told not to."""
    monkeypatch.setattr(runner_module, 'get_device', lambda: device)
    if device == 'cpu':
        yield {}
        return
    monkeypatch.setenv('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled):
        yield {'randomness.deterministic': True}
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize('loop, num_workers', [('iterations', 2), ('iterations', 0), ('epochs', 0)])
def test_a_resumed_run_gives_the_same_bits_as_one_that_never_stopped(config, tmp_path, loop, num_workers, on_device):
    sampler = dict(type='InfiniteSampler' if loop == 'iterations' else 'DefaultSampler', shuffle=True)
    options = {'train_cfg': LOOPS[loop], 'train_dataloader.sampler': sampler, **on_device}
    build_runner(config, tmp_path, **options, **{'default_hooks.checkpoint.max_keep_ckpts': -1}).train()
    straight = torch.load(tmp_path / 'iter_6.pth')

    (tmp_path / 'iter_6.pth').unlink()
    assert newest_checkpoint(str(tmp_path)) == str(tmp_path / 'iter_4.pth')
    runner = build_runner(
        config,
        tmp_path,
        **options,
        **{
            # Neither the number of workers nor another seed of the machine may matter.
            'train_dataloader.num_workers': num_workers,
            'train_dataloader.persistent_workers': num_workers > 0,
            'randomness.seed': None,
            'load_from': str(tmp_path / 'iter_4.pth'),
            'resume': True,
        },
    )
    runner.train()
    resumed = torch.load(tmp_path / 'iter_6.pth')

    for part in ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers'):
        assert_same(straight[part], resumed[part], part)
    logs = [checkpoint['message_hub']['log_scalars'] for checkpoint in (straight, resumed)]
    for name in ('train/loss', 'train/loss_cls', 'train/loss_mask', 'train/lr'):
        assert logs[0][name].data[0].tolist() == logs[1][name].data[0].tolist(), name
    assert len(logs[0]['train/loss'].data[0]) == 6
