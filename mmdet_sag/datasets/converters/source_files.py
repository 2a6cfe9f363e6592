"""Finding and reading the files of a source."""

import itertools
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PureWindowsPath

import yaml

from ...errors import InputError
from .image_header import IMAGE_SUFFIXES
from .left_out import EntryError

_SPLITS = dict(
    train='train', training='train', val='val', valid='val', validation='val', test='test', testing='test'
)  # fmt: skip
# Data sets name thousands of classes and files.
_LARGEST_YAML = 1_000_000


def split_of(name: str) -> str | None:
    """``'train'``, ``'val'`` or ``'test'`` if a file or folder is named so, as in ``instances_val2017``, else None."""
    found = {_SPLITS[word] for word in re.findall(r'[^\W\d_]+', name.lower()) if word in _SPLITS}
    return found.pop() if len(found) == 1 else None


def split_of_folders(place: Path) -> str | None:
    """The split that the first of a file's folders names, or None."""
    return next(filter(None, map(split_of, place.parts[:-1])), None)


def without_split(place: Path, *others: str) -> str:
    """The path of a file with ``/``, without folders that name a split or are called like one of ``others``."""
    return Path(
        *(part for part in place.parts[:-1] if part not in others and not split_of(part)), place.name
    ).as_posix()


def images_below(folder: Path) -> list[Path]:
    """All image files below a folder, sorted; hidden files are left out."""
    return [path for path in files_below(folder, '') if path.suffix.lower() in IMAGE_SUFFIXES]


def files_below(folder: Path, suffix: str) -> Iterator[Path]:
    """Files below a folder that end in ``suffix``, sorted; hidden files are left out."""
    return (path for path in sorted(folder.rglob(f'*{suffix}')) if not path.name.startswith('.') and path.is_file())


def located(text: str, folders: Sequence[Path], moved: bool = False, least: int = 1) -> Path | None:
    """The file or folder that a source names, in the first of these folders that has it, or None.

    Backslashes separate folders, as on Windows. Of an absolute path of another machine the end counts and, if
    ``moved``, of a relative path too; ``least`` is the number of the last parts that must be there.
    """
    windows = PureWindowsPath(text)
    parts = [part for part in windows.parts if part not in (windows.anchor, '.')]
    ends = [Path(text), Path(*parts)]
    if windows.anchor or moved or '..' in parts:
        ends += [Path(*parts[first:]) for first in range(1, len(parts) - least + 1)]
    candidates = (folder / end for end in ends for folder in folders)
    return next((path for path in candidates if os.path.exists(path)), None)


def image_beside(path: Path) -> Path | None:
    """The image with the name of ``path`` except its suffix, or None."""
    # The last two to say that they cannot be read.
    suffixes = (variant for suffix in (*IMAGE_SUFFIXES, '.heic', '.heif') for variant in (suffix, suffix.upper()))
    return next(filter(Path.is_file, (path.with_name(path.stem + suffix) for suffix in suffixes)), None)


def read_text(path: Path) -> str:
    """Read a text file in UTF-8."""
    try:
        return path.read_text(encoding='utf-8-sig')
    except UnicodeDecodeError as error:
        raise EntryError(f"'{path}'", 'is not text in UTF-8', 'save it as UTF-8') from error
    except OSError as error:
        raise EntryError(f"'{path}'", f'cannot be read ({error.strerror})', 'copy it again') from error


def read_lines(path: Path) -> list[str]:
    """Lines of a text file that are not empty, stripped."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def read_json(path: Path) -> dict:
    """Read a JSON file that holds a mapping."""
    return _mapping(path, read_json_value(path))


def read_json_value(path: Path) -> object:
    """Read a JSON file."""
    return _parsed(path, json.loads, 'JSON', 'it may be truncated; export it again')


def read_yaml(path: Path) -> dict:
    """Read a YAML file that holds a mapping."""
    return _mapping(path, _parsed(path, _parse_yaml, 'YAML', 'correct it'))


def _parse_yaml(text: str) -> object:
    loader = yaml.SafeLoader(text)
    node = loader.get_single_node()
    if node is None:
        return None
    if _size(node, {}) > _LARGEST_YAML:
        raise yaml.YAMLError('its aliases stand for too many values')
    return loader.construct_document(node)


def _size(node: yaml.Node, known: dict[int, float]) -> float:
    """Number of values below a node, those of its aliases included."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        # Of an alias inside of what it stands for.
        known[id(node)] = math.inf
        children = node.value if isinstance(node, yaml.SequenceNode) else itertools.chain(*node.value)
        known[id(node)] = 1 + sum(_size(child, known) for child in children)
    return known[id(node)]


def read_if_possible(read: Callable[[Path], dict], path: Path) -> dict:
    """What ``read`` returns, or an empty mapping for a file that it refuses, which may belong to another program."""
    try:
        return read(path)
    except InputError:
        return {}


def _parsed(path: Path, parse: Callable[[str], object], kind: str, remedy: str) -> object:
    text = read_text(path)
    try:
        return parse(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise EntryError(f"'{path}'", f'is not valid {kind}', remedy, ' '.join(str(error).split())) from error


def _mapping(path: Path, content: object) -> dict:
    if not isinstance(content, dict):
        reason = f'holds a {type(content).__name__} instead of a mapping'
        raise EntryError(f"'{path}'", reason, 'correct it, or leave it out')
    return content
