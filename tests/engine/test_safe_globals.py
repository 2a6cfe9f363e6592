import io
import pickle

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmdet_sag.engine.safe_globals import LOADS_SAFELY

pytestmark = pytest.mark.skipif(not LOADS_SAFELY, reason='this PyTorch does not load safely unless told to')


def load(content: object) -> object:
    file = io.BytesIO()
    torch.save(content, file)
    file.seek(0)
    return torch.load(file)


def test_a_log_and_numpy_numbers_are_loaded_safely():
    log = HistoryBuffer()
    log.update(1.5)
    log.update(2)
    loaded = load(dict(log=log, eta=np.float64(3), flags=np.array([True]), best=np.float32(0.25)))
    assert loaded['log'].mean() == 1.75
    assert loaded['log'].statistics('max') == 2
    assert loaded['eta'] == 3
    assert loaded['best'] == np.float32(0.25)


def test_numpys_names_before_and_after_version_2_are_known():
    names = {item[1] for item in torch.serialization.get_safe_globals() if isinstance(item, tuple)}
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
        assert {f'{module}.scalar', f'{module}._reconstruct'} <= names


class Attribute:
    """Pickled as the read of an attribute, as an attack would do it."""

    def __init__(self, owner: object, name: str) -> None:
        self.pair = (owner, name)

    def __reduce__(self) -> tuple:
        return getattr, self.pair


@pytest.mark.parametrize('attribute', [Attribute(HistoryBuffer, '__init__'), Attribute(np.ndarray, 'tofile')])
def test_no_other_attribute_can_be_reached_from_a_file(attribute):
    with pytest.raises(pickle.UnpicklingError, match='not allowed'):
        load(attribute)
