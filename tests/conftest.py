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


def pytest_configure() -> None:
    """Handle signals that tests send. ``nohup`` and shells, for what runs in the background, have some ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, 'SIGHUP'):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest, so that processes that run tests side by side end at about the same time."""
    items.sort(key=lambda item: item.path.relative_to(TESTS).parts[0] not in FIRST)


def pytest_collection_finish() -> None:
    """Leave what was imported out of the search for garbage, which else takes a tenth of the time."""
    gc.collect()
    gc.freeze()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test with the fixture ``device`` on the CPU and, where there is one, a GPU: ``pytest -m gpu`` for those."""
    if 'device' in metafunc.fixturenames:
        gpu = [pytest.param('cuda', marks=pytest.mark.gpu)] if torch.cuda.is_available() else []
        metafunc.parametrize('device', ['cpu', *gpu])


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
