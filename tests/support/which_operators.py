"""Puts mmcv's compiled operators or torchvision's behind ``mmcv.ops``, for as long as a test runs."""

import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

import mmdet_sag

STAND_IN = Path(mmdet_sag.__file__).parent / 'operators/torchvision_ext.py'


def compiled_operators() -> ModuleType:
    module = import_module('mmcv._ext')
    if Path(module.__file__).suffix == '.py':
        pytest.skip('mmcv has no compiled operators here')
    return module


def torchvision_operators() -> ModuleType:
    name = 'torchvision_ext'
    if name not in sys.modules:
        spec = spec_from_file_location(name, STAND_IN)
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        # Where torch.compile looks for the functions that it traces.
        sys.modules[name] = module
    return sys.modules[name]


OPERATORS = {'mmcv': compiled_operators, 'torchvision': torchvision_operators}


def put_behind_mmcv(operators: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, module in list(sys.modules.items()):
        if name.startswith('mmcv.ops.') and hasattr(module, 'ext_module'):
            monkeypatch.setattr(module, 'ext_module', operators)
