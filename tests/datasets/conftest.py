import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from tiny_data_set import TinyDataSet


@pytest.fixture
def data(tmp_path: Path) -> TinyDataSet:
    """A sound data set to break."""
    return TinyDataSet(tmp_path / 'tiny')
