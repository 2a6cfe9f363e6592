"""LabelMe: a JSON file of shapes for each image."""

import base64
import heapq
import io
import math
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from PIL import Image

from .labelled_data import LabelledData, LabelledImage, LabelledObject, ReadOptions
from .masks import clipped, placed, union
from .source_files import (
    NOT_LEARNT,
    READ_ERRORS,
    EntryError,
    LeftOut,
    files_below,
    image_beside,
    images_below,
    located,
    read_if_possible,
    read_json,
    read_json_value,
    split_of_folders,
    without_split,
)
from .tool_labels import ellipse, mapping


def is_labelme(source: Path) -> bool:
    """Whether a JSON file, or one of the smallest below a folder, has shapes of LabelMe."""
    if source.is_file():
        # A list is another tool's.
        return source.suffix.lower() == '.json' and 'shapes' in mapping(read_json_value(source))
    # Another program's file may lie there, such as the one of labelme2coco, which is larger.
    smallest = heapq.nsmallest(3, files_below(source, '.json'), key=lambda path: path.stat().st_size)
    return any('shapes' in read_if_possible(read_json, path) for path in smallest)


def read_labelme(source: Path, options: ReadOptions) -> LabelledData:
    """Read labels of LabelMe.

    Shapes of one label and ``group_id`` are one object. Polygons, rectangles, circles and masks are objects; points and
    lines have no area and are left out. ``"crowd": true`` in a shape's flags marks a region of many objects.
    """
    options.refuse_class_names(source)
    files = [source] if source.is_file() else list(files_below(source, '.json'))
    files = list(filter(options.reads, files))
    root = source.parent if source.is_file() else source
    data = LabelledData([], [])
    others = 0
    for path in files:
        with data.left_out.collect('images'):
            content = read_json(path)
            if len(files) > 1 and 'images' in content and 'shapes' not in content:
                others += 1
                continue
            data.images.append(_labelled_image(path, content, root, options, data.left_out))
    data.classes += sorted({item.name for image in data.images for item in image.objects})
    if others:
        data.notes.append(f"{others} files in COCO's format beside the JSON files of LabelMe: left out")
    labelled = {image.path.resolve() for image in data.images}
    # A file that was left out is named already.
    names = {path.with_suffix('') for path in files}
    for image_path in images_below(root):
        if image_path.resolve() not in labelled and image_path.with_suffix('') not in names:
            data.left_out.add(NOT_LEARNT, f"'{image_path}'", 'images without a JSON file')
    return data


def _labelled_image(path: Path, content: dict, root: Path, options: ReadOptions, left_out: LeftOut) -> LabelledImage:
    if not isinstance(content.get('shapes'), list):
        raise EntryError(f"'{path}'", 'has no shapes, so it is not a file of LabelMe', 'move it elsewhere')
    image_path, embedded = _image_of(path, content, options)
    size = (content.get('imageWidth'), content.get('imageHeight'))
    label_size = size if all(type(value) is int and value > 0 for value in size) else None
    place = (path.parent / image_path.name).relative_to(root)
    split = split_of_folders(place)
    image = LabelledImage.open(image_path, without_split(place), label_size, options, 'turned', split, embedded)
    image.origin = path
    parts: dict[Any, list] = {}
    crowds = set()
    for index, shape in enumerate(map(mapping, content['shapes'])):
        where = f"'{path}', shape {index}"
        kind = shape.get('shape_type') or 'polygon'
        if kind in ('point', 'points', 'line', 'linestrip'):
            left_out.add(NOT_LEARNT, where, f"shapes of type '{kind}', which has no area")
            continue
        with left_out.collect('objects'):
            label = shape.get('label')
            if not isinstance(label, str) or not label:
                raise EntryError(where, 'has no label', 'give it one, or delete it')
            group = shape.get('group_id')
            key = (label, index if group is None else f'group {group}')
            pieces = _parts(shape, kind, image.size, where)
            parts.setdefault(key, []).extend(pieces)
            if mapping(shape.get('flags')).get('crowd'):
                crowds.add(key)
    for key, pieces in parts.items():
        image.objects.append(LabelledObject(key[0], union(pieces, image.size), is_crowd=key in crowds))
    return image


def _image_of(path: Path, content: dict, options: ReadOptions) -> tuple[Path, bytes | None]:
    """Path of the image of a JSON file, and its bytes if it is only in the JSON file."""
    text = str(content.get('imagePath') or '')
    folders = [folder for folder in (path.parent, options.image_folder) if folder]
    image = located(text, folders, moved=True)
    if image and image.is_file():
        return image, None
    beside = next(filter(None, (image_beside(folder / path.name) for folder in folders)), None)
    if beside:
        return beside, None
    data = content.get('imageData')
    if not isinstance(data, str) or not data:
        remedy = 'put it beside the JSON file, or give --images DIR'
        detail = f"'{content.get('imagePath')}'"
        raise EntryError(f"'{path}'", 'its image is neither there nor in the file', remedy, detail)
    return path.with_name(PureWindowsPath(text).name or path.stem), _decoded(data, f"'{path}': imageData")


def _decoded(data: Any, where: str) -> bytes:
    try:
        return base64.b64decode(data, validate=False)
    except (TypeError, ValueError) as error:
        raise EntryError(where, 'is not base64', 'label the image again') from error


def _parts(shape: dict, kind: str, size: tuple[int, int], where: str) -> list:
    """The polygons or the RLE of a shape."""
    try:
        points = np.asarray(shape.get('points'), float).reshape(-1, 2)
    except (TypeError, ValueError) as error:
        raise EntryError(where, 'its points are not a list of [x, y]', 'delete it, or draw it again') from error
    if not np.isfinite(points).all():
        raise EntryError(where, 'a coordinate is NaN or infinite', 'delete it, or draw it again')
    if kind == 'mask':
        return [_mask(shape, points, size, where)]
    if kind == 'rectangle' and len(points) == 2:
        (x1, y1), (x2, y2) = points
        points = np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)])
    elif kind == 'circle' and len(points) == 2:
        radius = math.dist(*points)
        points = ellipse(*points[0], radius, radius).round(3)
    elif kind not in ('polygon', 'rectangle', 'oriented_rectangle', 'rotation'):
        raise EntryError(where, f"shapes of type '{kind}' are not known", 'draw it as a polygon')
    if len(points) < 3:
        raise EntryError(where, f'a {kind} of {len(points)} points has no area', 'delete it, or draw it again')
    return clipped(points.ravel().tolist(), size)


def _mask(shape: dict, points: np.ndarray, size: tuple[int, int], where: str) -> dict:
    try:
        with Image.open(io.BytesIO(_decoded(shape.get('mask'), f'{where}: its mask'))) as image:
            pixels = np.asarray(image.convert('L')) > 0
    except READ_ERRORS as error:
        raise EntryError(where, 'its mask is not a picture', 'delete it, or draw it again') from error
    if not len(points):
        raise EntryError(where, 'a mask without points has no place', 'delete it, or draw it again')
    error = EntryError(where, 'its mask reaches over the border of the image', 'delete it, or draw it again')
    return placed(pixels, *points[0].astype(int), size, error)
