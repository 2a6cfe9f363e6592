import ast
import inspect
import pkgutil
import re
from importlib import import_module
from operator import attrgetter

import pytest

import mmdet_sag
from mmdet_sag.engine.mmengine_private import PRIVATE_ATTRIBUTES, PRIVATE_FUNCTIONS

FRAMEWORK = ('mmengine', 'mmdet')


def resolve(name):
    """The class or module of a dotted name."""
    module, attributes = name, []
    while True:
        try:
            found = import_module(module)
            return attrgetter('.'.join(reversed(attributes)))(found) if attributes else found
        except ModuleNotFoundError:
            module, _, attribute = module.rpartition('.')
            attributes.append(attribute)


def public_name(cls):
    """How the tables call a class: by the package that exports it, if one does."""
    package = '.'.join(cls.__module__.split('.')[:2])
    exported = getattr(import_module(package), cls.__name__, None) is cls
    return f'{package if exported else cls.__module__}.{cls.__qualname__}'


@pytest.mark.parametrize(
    ('owner', 'name'), [(owner, name) for owner, names in PRIVATE_FUNCTIONS.items() for name in names]
)
def test_private_functions_take_the_parameters_that_are_relied_on(owner, name):
    function = getattr(resolve(owner), name)
    assert tuple(inspect.signature(function).parameters) == PRIVATE_FUNCTIONS[owner][name]


@pytest.mark.parametrize(
    ('owner', 'name'), [(owner, name) for owner, names in PRIVATE_ATTRIBUTES.items() for name in names]
)
def test_private_attributes_are_still_set(owner, name):
    assert re.search(rf'self\.{name}\b', inspect.getsource(resolve(owner)))


def own_modules():
    for info in pkgutil.walk_packages(mmdet_sag.__path__, 'mmdet_sag.'):
        # It goes by the name mmcv._ext, and has mmcv's names.
        if not info.name.endswith('torchvision_ext'):
            yield import_module(info.name)


def test_every_private_name_that_is_imported_is_listed():
    for module in own_modules():
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module.split('.')[0] in FRAMEWORK:
                for alias in node.names:
                    if alias.name.startswith('_'):
                        assert alias.name in PRIVATE_FUNCTIONS.get(node.module, {}), (module.__name__, alias.name)


def test_every_private_part_of_mmengines_classes_that_the_engine_uses_is_listed():
    for module in own_modules():
        if not module.__name__.startswith('mmdet_sag.engine.'):
            continue
        for cls in [cls for _, cls in inspect.getmembers(module, inspect.isclass) if cls.__module__ == module.__name__]:
            bases = [base for base in cls.__mro__ if base.__module__.startswith('mmengine.')]
            used = {
                node.attr
                for node in ast.walk(ast.parse(inspect.getsource(module)))
                if isinstance(node, ast.Attribute) and node.attr.startswith('_') and not node.attr.startswith('__')
            } | {name for name in vars(cls) if name.startswith('_') and not name.startswith('__')}
            listed = {name for base in bases for name in PRIVATE_FUNCTIONS.get(public_name(base), {})}
            listed |= {name for base in bases for name in PRIVATE_ATTRIBUTES.get(public_name(base), ())}
            source = ''.join(map(inspect.getsource, bases))
            theirs = {name for name in used if re.search(rf'(self\.|def ){name}\b', source)}
            assert theirs <= listed, (cls.__name__, theirs - listed)
