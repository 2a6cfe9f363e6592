"""ISAT: a JSON file of polygons beside each image."""

import re
from pathlib import Path

from .labelled_data import LabelledData, ReadOptions
from .source_files import read_json
from .tool_labels import ToolLabels, WithoutArea, entries, files_that_begin, mapping, polygon, text

_HEAD = re.compile(r'"description"\s*:\s*"ISAT"')
_BACKGROUND = '__background__'


def is_isat(source: Path) -> bool:
    """Whether a file, or one below a folder, is of ISAT."""
    return any(files_that_begin(source, '.json', _HEAD))


def read_isat(source: Path, options: ReadOptions) -> LabelledData:
    """Read labels of ISAT. Polygons of one category and group are one object; those of the background are none.

    Args:
        source: A JSON file, or a folder of them, with the images.
        options: ``image_folder``, if the images are elsewhere.

    Raises:
        InputError: A file is damaged, or the images are missing.
    """
    options.refuse_class_names(source)
    labels = ToolLabels(source, options)
    for path in files_that_begin(source, '.json', _HEAD):
        with labels.left_out.collect('images'):
            content = read_json(path)
            info = mapping(content.get('info'))
            image = labels.image(info.get('name'), path, (info.get('width'), info.get('height')), 'turned')
            labels.read_objects(image, entries(content.get('objects')), f"object {{}} of '{path}'", _object)
    return labels.data()


def _object(index: int, item: dict, size: tuple[int, int]) -> tuple[tuple, list]:
    if item.get('category') == _BACKGROUND:
        raise WithoutArea('polygons of the background')
    pieces = polygon(item.get('segmentation'), size)
    return (text(item.get('category'), 'polygons without a category'), str(item.get('group', index))), pieces
