"""The rooms of the package, as docs/architecture.md shows them: who may import whom, and one name for one thing."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 'mmdet_sag'
# From the bottom to the top: a room imports from its own floor's lower rooms and from lower floors.
FLOORS = (
    ('errors', 'version'),
    ('fileio', 'operators', 'structures', 'command_line'),
    ('models', 'datasets', 'visualization', 'evaluation', 'checkpoints'),
    ('checks', 'engine', 'cpu'),
    ('analysis', 'apis', 'configuration', 'deployment'),
    ('registration', '__main__'),
)

# The old door of a tool, which stays for one release.
DEPRECATED = {ROOT / 'tools/deployment/benchmark.py'}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix('.py')


def imported_rooms(path: Path) -> Iterator[str]:
    """Rooms that a module imports from, inside functions too."""
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            target = (*base, *(node.module.split('.') if node.module else ()))
            names = [target[1]] if len(target) > 1 else [alias.name for alias in node.names]
            yield from names


def test_no_room_imports_from_a_higher_floor_and_none_in_a_circle():
    edges = {}
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    for path in PACKAGE.rglob('*.py'):
        room = room_of(path)
        if room == '__init__':
            continue
        for other in imported_rooms(path):
            if other == room or other.startswith('__'):
                continue
            assert floor[other] <= floor[room], f'{path.relative_to(ROOT)} imports from {other}, which is above'
            edges.setdefault(room, set()).add(other)
    while edges:
        ends = [room for room, others in edges.items() if not others & edges.keys()]
        assert ends, f'rooms import each other in a circle: {sorted(edges)}'
        for room in ends:
            del edges[room]


def test_every_room_stands_on_a_floor_and_in_the_page():
    rooms = {room_of(path) for path in PACKAGE.rglob('*.py')} - {'__init__'}
    assert rooms == {room for floor in FLOORS for room in floor}
    page = (ROOT / 'docs/architecture.md').read_text()
    assert [room for room in sorted(rooms) if f'`{room}`' not in page and f'`{room}.py`' not in page] == []


def test_no_two_modules_or_public_classes_have_one_name():
    folders = ('mmdet_sag', 'tools', 'demo')
    paths = {path for folder in folders for path in (ROOT / folder).rglob('*.py')} - DEPRECATED
    modules = Counter(path.stem for path in paths if path.stem != '__init__')
    classes = Counter(
        node.name
        for path in paths
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith('_')
    )
    assert [name for names in (modules, classes) for name, count in names.items() if count > 1] == []
