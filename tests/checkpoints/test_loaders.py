"""What MMEngine loads by an address, by a name of its zoo and from a storage."""

import contextlib
import functools
import hashlib
import http.server
import os
import shutil
import threading

import pytest
import torch
from mmengine.fileio import LocalBackend
from mmengine.model import BaseModule
from mmengine.runner import CheckpointLoader, FlexibleRunner, load_checkpoint
from mmengine.runner import checkpoint as mmengine_checkpoint
from support.tiny_training import FewWeights, few_weights_runner

from mmdet_sag.checkpoints import loaders
from mmdet_sag.checkpoints.reading import LOADS_SAFELY
from mmdet_sag.engine.checkpoint_files import load_checkpoint_file
from mmdet_sag.errors import InputError

pytestmark = pytest.mark.skipif(not LOADS_SAFELY, reason='this PyTorch does not load safely unless told to')


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder that is served at ``site.address``, and an empty cache."""
    folder = tmp_path / 'site'
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Handler, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield folder, f'http://127.0.0.1:{server.server_port}'
        server.shutdown()


def cached(tmp_path):
    return sorted((tmp_path / 'cache/hub/checkpoints').iterdir())


def write(path, value=0.0, **content):
    path.parent.mkdir(exist_ok=True, parents=True)
    torch.save({'state_dict': {'weight': torch.full((2,), value)}, **content}, path)


class Layer(BaseModule):
    def __init__(self, **options):
        super().__init__(**options)
        self.weight = torch.nn.Parameter(torch.ones(2))


def from_load_from(address, tmp_path):
    runner = few_weights_runner(tmp_path / 'run', max_iters=1, model=FewWeights(), load_from=address)
    runner.load_or_resume()


DOORS = {
    'load_checkpoint_file': lambda address, _: load_checkpoint_file(address),
    'load_checkpoint': lambda address, _: load_checkpoint(Layer(), address),
    'load_from': from_load_from,
    'init_cfg': lambda address, _: Layer(init_cfg=dict(type='Pretrained', checkpoint=address)).init_weights(),
    'init_cfg with prefix': lambda address, _: Layer(
        init_cfg=dict(type='Pretrained', checkpoint=address, prefix='backbone')
    ).init_weights(),
}
ADDRESSES = {
    'http': '{site}/a.pth',
    'torchvision': 'torchvision://a',
    'modelzoo': 'modelzoo://a',
    'open-mmlab': 'open-mmlab://a',
    'openmmlab': 'openmmlab://a',
    'mmcls': 'mmcls://a',
    's3': 's3://site/a.pth',
    'petrel': 'cluster:petrel://site/a.pth',
    'local': '{folder}/a.pth',
}


@pytest.mark.parametrize('door', DOORS)
@pytest.mark.parametrize('kind', ADDRESSES)
def test_nothing_that_is_loaded_is_run(kind, door, site, tmp_path, monkeypatch):
    folder, address = site
    for zoo in ('get_torchvision_models', 'get_external_models', 'get_mmcls_models'):
        monkeypatch.setattr(mmengine_checkpoint, zoo, lambda: dict(a=f'{address}/a.pth'))

    class Storage(LocalBackend):
        @contextlib.contextmanager
        def get_local_path(self, filepath):
            yield str(folder / 'a.pth')

    monkeypatch.setattr(loaders, 'get_file_backend', lambda *args, **kwargs: Storage())
    write(folder / 'a.pth', hook=Hostile(tmp_path / 'canary'))
    with pytest.raises(InputError, match=r'refused, it wants to use \w+\.mkdir') as error:
        DOORS[door](ADDRESSES[kind].format(site=address, folder=folder), tmp_path)
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / 'canary').exists()


def test_files_of_one_name_at_two_addresses_are_two_files(site):
    folder, address = site
    for number in (1, 2):
        write(folder / f'{number}/model_final.pth', value=number)
    for number in (1, 2, 1):
        weight = load_checkpoint_file(f'{address}/{number}/model_final.pth')['state_dict']['weight']
        assert weight.tolist() == [number, number]


def test_a_file_is_downloaded_once(site, tmp_path):
    folder, address = site
    write(folder / 'a.pth', value=3)
    load_checkpoint_file(f'{address}/a.pth')
    (folder / 'a.pth').unlink()
    assert load_checkpoint_file(f'{address}/a.pth')['state_dict']['weight'].tolist() == [3, 3]
    assert len(cached(tmp_path)) == 1


def test_a_file_that_pytorch_downloaded_is_used_if_its_name_says_what_is_in_it(site, tmp_path):
    folder, address = site
    write(folder / 'a.pth', value=4)
    name = f'a-{hashlib.sha256((folder / "a.pth").read_bytes()).hexdigest()[:8]}.pth'
    cache = tmp_path / 'cache/hub/checkpoints'
    cache.mkdir(parents=True)
    shutil.copy(folder / 'a.pth', cache / name)
    # Neither is at the address.
    assert load_checkpoint_file(f'{address}/{name}')['state_dict']['weight'].tolist() == [4, 4]
    shutil.copy(folder / 'a.pth', cache / 'a-01234567.pth')
    with pytest.raises(InputError, match=r'a-01234567.pth: cannot be downloaded \(HTTP Error 404: File not found\)'):
        load_checkpoint_file(f'{address}/a-01234567.pth')


def test_a_download_that_broke_off_is_not_kept(site):
    folder, address = site
    write(folder / 'a.pth', value=5)
    data = (folder / 'a.pth').read_bytes()
    (folder / 'a.pth').write_bytes(data[:-50])
    with pytest.raises(InputError, match='a.pth, downloaded to .* is damaged or truncated'):
        load_checkpoint_file(f'{address}/a.pth')
    (folder / 'a.pth').write_bytes(data)
    assert load_checkpoint_file(f'{address}/a.pth')['state_dict']['weight'].tolist() == [5, 5]


@pytest.mark.parametrize('address', ['torchvision://resnet5', 'http://', 'pavi://a', 's3://bucket/a.pth'])
def test_an_address_that_cannot_be_loaded_is_named(address):
    with pytest.raises(InputError, match=f'{address}: cannot be') as error:
        load_checkpoint_file(address)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize('by_address', [False, True])
@pytest.mark.parametrize('flexible', [False, True])
def test_a_resumed_checkpoint_runs_no_config(flexible, by_address, site, tmp_path, monkeypatch):
    folder, address = site
    few_weights_runner(tmp_path / 'old', max_iters=2, model=FewWeights()).train()
    checkpoint = torch.load(tmp_path / 'old/iter_2.pth')
    checkpoint['meta']['config'] = f'import os\nos.mkdir({str(tmp_path / "canary")!r})\n'
    torch.save(checkpoint, folder / 'a.pth')
    path = f'{address}/a.pth' if by_address else str(folder / 'a.pth')
    if flexible:
        monkeypatch.setattr('support.tiny_training.Runner', FlexibleRunner)
    options = dict(strategy=dict(type='SingleDeviceStrategy')) if flexible else {}
    # MMEngine's own hooks, as in a config of MMDetection.
    hooks = dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2))
    runner = few_weights_runner(
        tmp_path / 'new', max_iters=4, model=FewWeights(), load_from=path, resume=True, default_hooks=hooks, **options
    )
    runner.train()
    assert runner.iter == 4
    assert not (tmp_path / 'canary').exists()


def test_every_way_to_a_file_is_one_of_these():
    # Those of PyTorch's safe loading: MMEngine's pavi needs a package that is nowhere to be had.
    others = {name for name, loader in CheckpointLoader._schemes.items() if loader.__module__ != loaders.__name__}
    assert others == {
        'http://', 'https://', 'modelzoo://', 'torchvision://', 'open-mmlab://', 'openmmlab://', 'mmcls://', 'pavi://'
    }  # fmt: skip


def test_an_average_of_the_weights_starts_from_a_file_of_weights_alone(tmp_path):
    weights = FewWeights().state_dict()
    torch.save(weights, tmp_path / 'weights.pth')
    hooks = [dict(type='EMAHook')]
    runner = few_weights_runner(
        tmp_path, max_iters=1, model=FewWeights(), load_from=str(tmp_path / 'weights.pth'), custom_hooks=hooks
    )
    runner.call_hook('before_run')
    runner.load_or_resume()
    average = runner.hooks[[type(hook).__name__ for hook in runner.hooks].index('EMAHook')].ema_model.module
    for model in (runner.model, average):
        assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
