"""Finding files of a source, and reading them."""

import json
from collections.abc import Iterator
from pathlib import Path

import yaml

from ...errors import InputError
from .image_header import IMAGE_SUFFIXES

# What folders and files of a split are called.
_SPLITS = {
    'train': 'train',
    'training': 'train',
    'val': 'val',
    'valid': 'val',
    'validation': 'val',
    'test': 'test',
    'testing': 'test',
}


def split_of(name: str) -> str | None:
    """``'train'``, ``'val'`` or ``'test'`` if a folder or file is called like one of them, else None."""
    name = name.lower()
    if name in _SPLITS:
        return _SPLITS[name]
    # instances_val2017, train_set
    parts = ''.join(' ' if not char.isalpha() else char for char in name).split()
    found = {_SPLITS[part] for part in parts if part in _SPLITS}
    return found.pop() if len(found) == 1 else None


def images_below(folder: Path) -> list[Path]:
    """All image files below a folder, in the order of their names; hidden ones are left out."""
    return sorted(
        path
        for path in folder.rglob('*')
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith('.') and path.is_file()
    )


def files_below(folder: Path, suffix: str) -> Iterator[Path]:
    """Files below a folder with a suffix, in the order of their names; hidden ones are left out."""
    return (path for path in sorted(folder.rglob(f'*{suffix}')) if not path.name.startswith('.') and path.is_file())


def image_beside(path: Path) -> Path | None:
    """The image that has the name of a path up to the suffix, or None."""
    for suffix in IMAGE_SUFFIXES:
        for candidate in (path.with_name(path.stem + suffix), path.with_name(path.stem + suffix.upper())):
            if candidate.is_file():
                return candidate
    return None


def read_text(path: Path) -> str:
    """Content of a text file.

    Raises:
        InputError: It cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding='utf-8-sig')
    except UnicodeDecodeError as error:
        raise InputError(f"'{path}' is not a text in UTF-8: save it as UTF-8") from error
    except OSError as error:
        raise InputError(f"'{path}' cannot be read: {error.strerror}") from error


def read_lines(path: Path) -> list[str]:
    """Lines of a text file that are not empty, without white space around them."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def read_json(path: Path) -> dict:
    """Content of a JSON file that holds a mapping.

    Raises:
        InputError: It is something else.
    """
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"'{path}' is not valid JSON ({error}): it may be truncated; export it again") from error
    if not isinstance(content, dict):
        raise InputError(f"'{path}' holds a {type(content).__name__} instead of a mapping: leave the file out")
    return content


def read_yaml(path: Path) -> dict:
    """Content of a YAML file that holds a mapping.

    Raises:
        InputError: It is something else.
    """
    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise InputError(f"'{path}' is not valid YAML ({' '.join(str(error).split())}): correct it") from error
    if not isinstance(content, dict):
        raise InputError(f"'{path}' holds a {type(content).__name__} instead of a mapping: correct it")
    return content
