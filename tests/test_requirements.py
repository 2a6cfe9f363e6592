"""What is imported is declared: another package may stop bringing it along."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Distributions that are not called like the module that they hold.
DISTRIBUTIONS = dict(PIL='pillow', cv2='opencv-python', mmcv='mmcv-lite', mmseg='mmsegmentation', yaml='pyyaml')


def imported(tree: ast.AST) -> Iterator[str]:
    """Top-level names of all absolute imports but those that may fail."""
    nodes = list(ast.iter_child_nodes(tree))
    if isinstance(tree, ast.Try) and any('ImportError' in ast.unparse(handler) for handler in tree.handlers):
        nodes = [node for node in nodes if node not in tree.body]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.split('.')[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split('.')[0]
        yield from imported(node)


def declared(*names: str) -> set[str]:
    lines = [line for name in names for line in (ROOT / name).read_text().splitlines()]
    return {re.match(r'[\w.-]+', line)[0].lower() for line in lines if line[:1].isalpha()}


def undeclared(folders: tuple[str, ...], requirements: set[str], without: str = '.mim') -> dict[str, str]:
    """Distributions that are imported and not required, each with a file that needs it."""
    sources = [path for folder in folders for path in (ROOT / folder).rglob('*.py')]
    sources = [path for path in sources if not {'.mim', without}.intersection(path.parts)]
    # Scripts and tests import the files beside them by their bare names.
    scripts = [path for folder in ('tools', 'demo', 'tests') for path in (ROOT / folder).rglob('*.py')]
    own = {name for path in scripts for name in (path.stem, path.parent.name)}
    own |= {'mmdet_sag', 'mmdet_sag_operators', 'support'}
    found = {}
    for path in sources:
        for name in set(imported(ast.parse(path.read_text()))) - own - sys.stdlib_module_names:
            if DISTRIBUTIONS.get(name, name).lower() not in requirements:
                found[DISTRIBUTIONS.get(name, name)] = str(path.relative_to(ROOT))
    return found


def test_the_package_its_tools_and_the_demo_import_what_requirements_txt_declares():
    folders = ('mmdet_sag', 'tools', 'demo', 'configs')
    # Numba and timm, extras of pyproject.toml, are imported by modules that are done without.
    requirements = declared('requirements.txt') | {'numba', 'timm'}
    assert undeclared(folders, requirements, without='deployment') == {}


def test_exports_import_what_their_requirements_declare():
    # MMSegmentation is imported where a model of its is evaluated.
    requirements = declared('requirements.txt', 'requirements/deploy.txt', 'requirements/segmentation.txt')
    assert undeclared(('mmdet_sag/deployment', 'tools/deployment'), requirements) == {}


def test_the_tests_import_what_their_requirements_declare():
    assert undeclared(('tests',), declared('requirements.txt', 'requirements/tests.txt')) == {}


def test_an_import_that_may_fail_is_not_required():
    text = 'try:\n    import safetensors\nexcept ImportError:\n    import numpy.linalg\n'
    text += 'def f():\n    from cv2 import imread'
    assert list(imported(ast.parse(text))) == ['numpy', 'cv2']
