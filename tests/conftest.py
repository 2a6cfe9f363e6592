import contextlib
import gc
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mmengine.registry import init_default_scope
from support.tool import forked_python, shorten_start

import mmdet_sag

TESTS = Path(__file__).parent
# Most of their tests start processes, which takes long.
FIRST = ('tools', 'demo', 'deployment', 'models', 'engine', 'test_packaging.py')


shorten_start()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Without a GPU, tests of ``-m gpu`` can still show that their tensors never lie on two devices."""
    parser.addoption('--pretend-gpu', action='store_true', help='with -m gpu: pretend one, up to the backward pass')


def pytest_configure() -> None:
    """Handle signals that tests send. ``nohup`` and shells, for what runs in the background, have some ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, 'SIGHUP'):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest, so that processes that run tests side by side end at about the same time."""
    items.sort(key=lambda item: item.path.relative_to(TESTS).parts[0] not in FIRST)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test with the fixture ``device`` on the CPU and, where there is one, a GPU: ``pytest -m gpu`` for those."""
    if 'device' in metafunc.fixturenames:
        there = torch.cuda.is_available() or metafunc.config.getoption('pretend_gpu')
        gpu = [pytest.param('cuda', marks=pytest.mark.gpu)] if there else []
        metafunc.parametrize('device', ['cpu', *gpu], scope='module')


@pytest.fixture(scope='module', autouse=True)
def frozen_modules() -> None:
    """What earlier tests imported is left out of the search for garbage that each MMEngine data set makes."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope='session', autouse=True)
def pretended_gpu(pytestconfig: pytest.Config):
    """The GPU of ``--pretend-gpu``."""
    if not pytestconfig.getoption('pretend_gpu'):
        yield None
        return
    from support.pretended_cuda import PretendedCUDA

    with PretendedCUDA() as cuda, pytest.MonkeyPatch.context() as patches:
        # Modules get new parameters: those that they have cannot take a pretended tensor.
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        patches.setattr(torch.cuda, 'is_bf16_supported', lambda: True)
        for owner, name in (
            (torch.Tensor, 'backward'),
            (torch.autograd, 'grad'),
            (torch.cuda, 'current_stream'),
            (torch.cuda, 'set_sync_debug_mode'),
        ):
            patches.setattr(owner, name, lambda *args, **kwargs: pytest.skip('a pretended GPU cannot do this'))
        yield cuda


@pytest.fixture(autouse=True)
def one_device(pretended_gpu):
    """Under ``--pretend-gpu``, no operator gets tensors of two devices."""
    yield
    if pretended_gpu is not None:
        mixed = dict(pretended_gpu.mixed)
        pretended_gpu.mixed.clear()
        assert not mixed


@pytest.fixture(scope='module')
def without_tf32():
    """Convs of a GPU have float32's precision, which PyTorch does not ask for by default."""
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(torch.backends.cudnn, 'allow_tf32', False)
        yield


@pytest.fixture
def default_device(device: str, without_tf32):
    """What a test makes without naming a device lies on that of the fixture ``device``, in full float32."""
    with contextlib.nullcontext() if device == 'cpu' else torch.device(device):
        yield


@pytest.fixture(autouse=True)
def default_scope():
    """Registries resolve types as they do under MMDetection's configs, after the package was imported."""
    assert mmdet_sag.__version__
    init_default_scope('mmdet')


@pytest.fixture(scope='module')
def forked_torchrun(tmp_path_factory) -> Iterator[None]:
    """In the environment of the module's tests, torchrun forks its processes instead of starting them."""
    with pytest.MonkeyPatch.context() as monkeypatch, forked_python(tmp_path_factory.mktemp('forked')) as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        yield
