"""CVAT for images 1.1: an XML file of shapes for all images."""

from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from ...errors import InputError
from .labelled_data import LabelledData, ReadOptions
from .masks import placed
from .source_files import read_xml, split_of
from .tool_labels import Head, ToolLabels, WithoutArea, ellipse, numbers, polygon, rectangle, text

_HEAD = Head('.xml', r'<annotations>')
_SHAPES = ('polygon', 'box', 'ellipse', 'mask')
_OTHERS = ('polyline', 'points', 'cuboid', 'skeleton')

is_cvat = _HEAD.is_in


def read_cvat(source: Path, options: ReadOptions) -> LabelledData:
    """Read exports 'CVAT for images 1.1': ``annotations.xml`` with the images.

    Polygons, boxes, ellipses and masks are objects; those of one class and group are one object. Tags, attributes and
    shapes without area are not. ``subset`` is the split.
    """
    options.refuse_class_names(source)
    labels = ToolLabels(source, options)
    classes: list[str] = []
    for path in labels.files(_HEAD):
        root = read_xml(path)
        if root.find('track') is not None:
            raise InputError(f"'{path}' is of 'CVAT for video': export the task as 'CVAT for images 1.1'")
        classes += [name.text or '' for name in root.iterfind('meta//label/name')]
        for element in root.iterfind('image'):
            _read_image(element, path, labels)
    return labels.data(classes)


def _read_image(element: ElementTree.Element, path: Path, labels: ToolLabels) -> None:
    name, subset = element.get('name'), element.get('subset') or ''
    size = (element.get('width'), element.get('height'))
    image = labels.image(name, path, size, 'turned', split_of(subset), subset)
    shapes = [(index, shape) for index, shape in enumerate(element) if shape.tag in (*_SHAPES, *_OTHERS)]
    labels.read_objects(image, shapes, f"shape {{}} of '{name}'", _object)


def _object(index: int, shape: ElementTree.Element, size: tuple[int, int]) -> tuple[tuple, list]:
    if shape.tag in _OTHERS:
        raise WithoutArea(f"shapes of type '{shape.tag}', which has no area")
    label, group = text(shape.get('label'), 'shapes without a label'), shape.get('group_id', '0')
    return (label, index if group == '0' else f'group {group}'), _pieces(shape.tag, shape.attrib, size)


def _pieces(kind: str, values: Mapping[str, str], size: tuple[int, int]) -> list:
    """The polygons, or the RLE, of a shape."""
    if kind == 'mask':
        return [_mask(values, size)]
    if kind == 'polygon':
        return polygon([corner.split(',') for corner in values.get('points', '').split(';')], size)
    (degrees,) = numbers(values.get('rotation', 0)).tolist()
    if kind == 'box':
        x1, y1, x2, y2 = numbers(*map(values.get, ('xtl', 'ytl', 'xbr', 'ybr'))).tolist()
        return polygon(rectangle(x1, y1, x2 - x1, y2 - y1, degrees, (0.5, 0.5)), size)
    return polygon(ellipse(*numbers(*map(values.get, ('cx', 'cy', 'rx', 'ry'))), np.radians(degrees)), size)


def _mask(values: Mapping[str, str], size: tuple[int, int]) -> dict:
    """RLE of a mask: lengths of runs along the rows of its rectangle, the first of them outside of the object."""
    try:
        runs = list(map(int, values.get('rle', '').split(',')))
        left, top, width, height = (int(values[key]) for key in ('left', 'top', 'width', 'height'))
    except (KeyError, ValueError) as error:
        raise InputError('masks without numbers') from error
    if min(runs) < 0 or min(width, height) < 1 or sum(runs) != width * height or width > size[0] or height > size[1]:
        raise InputError('masks that do not fill their rectangle')
    pixels = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    return placed(pixels, left, top, size, InputError('masks that reach over the border of the image'))
