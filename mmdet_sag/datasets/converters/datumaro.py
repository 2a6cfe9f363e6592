"""Datumaro: a JSON file of items for each subset."""

from functools import partial
from pathlib import Path

from ...errors import InputError
from .labelled_data import LabelledData, ReadOptions
from .source_files import read_json, split_of
from .tool_labels import Head, ToolLabels, WithoutArea, entries, mapping, numbers, polygon, rectangle, run_lengths, text

_HEAD = Head('.json', r'"dm_format_version"|^\s*\{\s*"infos?"\s*:\s*\{[^}]*\}\s*,\s*"categories"\s*:\s*\{')
_WITHOUT_AREA = ('label', 'points', 'polyline', 'caption', 'cuboid_3d', 'skeleton')

is_datumaro = _HEAD.is_in


def read_datumaro(source: Path, options: ReadOptions) -> LabelledData:
    """Read Datumaro's own format, which CVAT exports too: ``annotations/*.json`` with the images.

    Polygons, masks and boxes are objects; those of one class and group are one object. The file's name is the split.
    """
    options.refuse_class_names(source)
    labels = ToolLabels(source, options)
    classes: list[str] = []
    for path in labels.files(_HEAD):
        content = read_json(path)
        listed = mapping(mapping(content.get('categories')).get('label')).get('labels')
        names = [str(entry.get('name')) for entry in entries(listed)]
        classes += names
        for item in entries(content.get('items')):
            info = mapping(item.get('image'))
            size = info.get('size')
            size = tuple(reversed(size)) if isinstance(size, list) and len(size) == 2 else None
            name = info.get('path') or f'{item.get("id")}'
            image = labels.image(name, path, size, 'turned', split_of(path.stem), path.stem)
            read = partial(_object, names)
            annotations = enumerate(entries(item.get('annotations')))
            labels.read_objects(image, annotations, f"annotation {{}} of '{name}'", read)
    return labels.data(classes)


def _object(names: list[str], index: int, annotation: dict, size: tuple[int, int]) -> tuple[tuple, list]:
    pieces = _pieces(annotation, size)
    number, group = annotation.get('label_id'), annotation.get('group')
    known = type(number) is int and 0 <= number < len(names)
    label = text(names[number] if known else None, 'annotations of a class that is not listed')
    return (label, f'group {group}' if group else index), pieces


def _pieces(annotation: dict, size: tuple[int, int]) -> list:
    kind = annotation.get('type')
    if kind in _WITHOUT_AREA:
        raise WithoutArea(f"annotations of type '{kind}', which has no area")
    if kind == 'mask':
        return [run_lengths(annotation.get('rle'), size)]
    if kind == 'bbox':
        values = numbers(annotation.get('bbox'))[0]
        if values.shape != (4,):
            raise InputError('boxes that are not 4 numbers')
        return polygon(rectangle(*values, 0, (0, 0)), size)
    if kind == 'polygon':
        values = numbers(annotation.get('points'))[0]
        if values.ndim != 1 or len(values) % 2:
            raise InputError('polygons of fewer than 3 points')
        return polygon(values.reshape(-1, 2), size)
    raise InputError('annotations of an unknown type')
