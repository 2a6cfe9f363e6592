import os
import socket
import uuid
from argparse import Namespace
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.config import config as config_module
from support.tiny_training import rectangles_config

from mmdet_sag.engine import launch
from mmdet_sag.errors import InputError

CONFIGS = Path(__file__).parents[2] / 'configs'


@pytest.mark.parametrize(
    'address, environment, warns',
    [
        ('127.0.1.1', dict(GROUP_WORLD_SIZE='2'), True),
        ('10.0.0.7', dict(GROUP_WORLD_SIZE='2'), False),
        ('127.0.1.1', dict(GROUP_WORLD_SIZE='2', GLOO_SOCKET_IFNAME='eth0'), False),
        ('127.0.1.1', dict(GROUP_WORLD_SIZE='2', LOCAL_RANK='1'), False),
        ('127.0.1.1', {}, False),
    ],
)
def test_several_machines_are_told_that_a_name_is_only_local(monkeypatch, capfd, address, environment, warns):
    monkeypatch.setattr(socket, 'gethostbyname', lambda name: address)
    monkeypatch.setattr(launch, '_use_gloo', lambda cfg: None)
    monkeypatch.setattr(launch, 'get_device', lambda: 'cpu')
    for name in ('GROUP_WORLD_SIZE', 'GLOO_SOCKET_IFNAME', 'LOCAL_RANK'):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    launch.init_processes(Config(dict(launcher='pytorch')))
    printed = capfd.readouterr().err
    assert ('set GLOO_SOCKET_IFNAME' in printed) == warns
    assert printed.count('\n') == warns


def test_a_port_that_is_in_use_is_named(monkeypatch):
    monkeypatch.setattr(launch, 'get_device', lambda: 'cpu')
    with socket.create_server(('', 0)) as server:
        port = server.getsockname()[1]
        for name, value in dict(RANK=0, WORLD_SIZE=1, LOCAL_RANK=0, MASTER_PORT=port).items():
            monkeypatch.setenv(name, str(value))
        monkeypatch.setenv('MASTER_ADDR', '127.0.0.1')
        with pytest.raises(InputError, match=f'port {port} is in use on this machine: choose another, MASTER_PORT='):
            launch.init_processes(Config(dict(launcher='pytorch')))


def test_images_are_copied_to_a_gpu_behind_its_work():
    config = Config.fromfile(CONFIGS / 'polite_teacher/polite-teacher_centermask-lite_demo.py')
    launch._copy_without_waiting(config)
    assert config.train_dataloader.pin_memory and config.val_dataloader.pin_memory
    assert MODELS.build(config.model.data_preprocessor).data_preprocessor._non_blocking


def test_a_gpu_is_told_of_tf32_and_of_determinism_before_it_computes(monkeypatch):
    monkeypatch.setattr(launch.Runner, 'from_cfg', MagicMock())
    monkeypatch.delenv('CUBLAS_WORKSPACE_CONFIG', raising=False)
    before = torch.get_float32_matmul_precision()
    try:
        launch.build_runner(Config(dict(launcher='none', randomness=dict(deterministic=True), env_cfg=dict(tf32=True))))
        assert torch.get_float32_matmul_precision() == 'high'
        assert os.environ['CUBLAS_WORKSPACE_CONFIG'] == ':4096:8'
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_config_of_the_package_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = 'centermask-lite_demo_semi-0.1'
    args = Namespace(config=name, cfg_options=None, launcher='none', work_dir=None, local_rank=0)
    cfg = launch.load_config(args)
    assert args.config == cfg.filename == str(CONFIGS / f'polite_teacher/{name}.py')
    assert cfg.work_dir == f'work_dirs/{name}'


def test_the_text_of_a_config_is_formatted_when_it_has_changed_and_not_at_each_use(tmp_path, monkeypatch):
    formatted = []
    monkeypatch.setattr(config_module, 'FormatCode', lambda text, **options: formatted.append(text) or (text, True))
    config = rectangles_config(tmp_path / 'data')
    config.update(work_dir=str(tmp_path), launcher='none', experiment_name=uuid.uuid4().hex)
    runner = launch.build_runner(config)
    runner.call_hook('before_run')
    (dumped,) = tmp_path.glob('*.py')
    assert Config.fromfile(dumped).to_dict() == config.to_dict()
    assert len(formatted) == 1
    runner.cfg.work_dir = 'other'
    assert "work_dir='other'" in runner.cfg.pretty_text and len(formatted) == 2
