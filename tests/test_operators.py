import sys

import pytest

from mmdet_sag.errors import InputError
from mmdet_sag.operators import check_operators


def test_compiled_operators_pass():
    check_operators()


def test_an_mmcv_without_compiled_operators_is_refused_with_the_command_that_builds_them(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmcv._ext', None)
    with pytest.raises(InputError, match='no compiled operators.*mmcv._ext.*pip install --no-build-isolation') as error:
        check_operators()
    assert '\n' not in str(error.value)
