import pytest
from mmengine.registry import init_default_scope

import mmdet_sag


@pytest.fixture(autouse=True)
def default_scope():
    """Registries resolve types as they do under MMDetection's configs, after the package was imported."""
    assert mmdet_sag.__version__
    init_default_scope('mmdet')
