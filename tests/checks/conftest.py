from pathlib import Path

import pytest
from support.tiny_data_set import TinyDataSet


@pytest.fixture
def data(tmp_path: Path) -> TinyDataSet:
    """A sound data set to break."""
    return TinyDataSet(tmp_path / 'tiny')
