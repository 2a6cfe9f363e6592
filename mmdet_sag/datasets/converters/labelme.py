"""LabelMe: a JSON file of shapes for each image."""

import base64
import binascii
import io
import math
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from ...errors import InputError
from .image_header import READ_ERRORS
from .labelled_data import LabelledData, LabelledImage, LabelledObject, ReadOptions
from .masks import clipped, encoded, merged
from .source_files import (
    files_below,
    image_beside,
    images_below,
    read_if_possible,
    read_json,
    split_of_folders,
    without_split,
)

_CORNERS_OF_A_CIRCLE = 64


def is_labelme(source: Path) -> bool:
    """Whether a JSON file, or the first one below a folder, has shapes of LabelMe."""
    if source.is_file():
        return source.suffix.lower() == '.json' and 'shapes' in read_json(source)
    first = next(files_below(source, '.json'), None)
    return first is not None and 'shapes' in read_if_possible(read_json, first)


def read_labelme(source: Path, options: ReadOptions) -> LabelledData:
    """Read labels of LabelMe.

    Shapes of one label and ``group_id`` are one object. Polygons, rectangles, circles and masks are objects; points and
    lines have no area and are left out. ``"crowd": true`` in a shape's flags marks a region of many objects.

    Args:
        source: Folder of JSON files, or one file.
        options: ``image_folder``, if the images are elsewhere.

    Raises:
        InputError: An image is missing, or a shape is broken.
    """
    options.refuse_class_names(source)
    files = [source] if source.is_file() else list(files_below(source, '.json'))
    root = source.parent if source.is_file() else source
    left_out: Counter = Counter()
    images = [_labelled_image(path, root, options, left_out) for path in files]
    classes = sorted({item.name for image in images for item in image.objects})
    notes = [f'{count} shapes of type {kind}, which has no area: left out' for kind, count in sorted(left_out.items())]
    labelled = {image.path.resolve() for image in images}
    unlabelled = sum(path.resolve() not in labelled for path in images_below(root))
    if unlabelled:
        notes.append(f'{unlabelled} images without a JSON file: left out, as they are not labelled')
    return LabelledData(classes, images, notes)


def _labelled_image(path: Path, root: Path, options: ReadOptions, left_out: Counter) -> LabelledImage:
    content = read_json(path)
    if not isinstance(content.get('shapes'), list):
        raise InputError(f"'{path}' has no shapes, so it is not a file of LabelMe: move it elsewhere")
    image_path, embedded = _image_of(path, content, options)
    size = (content.get('imageWidth'), content.get('imageHeight'))
    label_size = size if all(type(value) is int and value > 0 for value in size) else None
    place = (path.parent / image_path.name).relative_to(root)
    split = split_of_folders(place)
    image = LabelledImage.open(image_path, without_split(place), label_size, options, 'turned', split, embedded)
    parts: dict[Any, list] = {}
    crowds = set()
    for index, shape in enumerate(content['shapes']):
        where = f"'{path}', shape {index}"
        shape = shape if isinstance(shape, dict) else {}
        kind = shape.get('shape_type') or 'polygon'
        if kind in ('point', 'points', 'line', 'linestrip'):
            left_out[kind] += 1
            continue
        label = shape.get('label')
        if not isinstance(label, str) or not label:
            raise InputError(f'{where}: has no label: give it one, or delete it')
        group = shape.get('group_id')
        key = (label, index if group is None else f'group {group}')
        parts.setdefault(key, []).extend(_parts(shape, kind, image.size, where))
        if (shape.get('flags') or {}).get('crowd'):
            crowds.add(key)
    for key, pieces in parts.items():
        polygons = all(isinstance(piece, list) for piece in pieces)
        segmentation = pieces if polygons else merged(pieces, image.size)
        image.objects.append(LabelledObject(key[0], segmentation, is_crowd=key in crowds))
    return image


def _image_of(path: Path, content: dict, options: ReadOptions) -> tuple[Path, bytes | None]:
    """Path of the image of a JSON file, and its bytes if it is only in the JSON file."""
    named = PurePosixPath(str(content.get('imagePath') or '').replace('\\', '/'))
    for folder in filter(None, (path.parent, options.image_folder)):
        for candidate in (folder / named, folder / named.name):
            if named.name and candidate.is_file():
                return candidate, None
        beside = image_beside(folder / path.name)
        if beside:
            return beside, None
    data = content.get('imageData')
    if not isinstance(data, str) or not data:
        raise InputError(
            f"'{path}': its image '{content.get('imagePath')}' is neither there nor in the file: put it beside the "
            'JSON file, or give --images DIR'
        )
    return path.with_name(named.name or path.stem), _decoded(data, f"'{path}': imageData")


def _decoded(data: Any, where: str) -> bytes:
    try:
        return base64.b64decode(data, validate=False)
    except (binascii.Error, TypeError, ValueError) as error:
        raise InputError(f'{where} is not base64: label the image again') from error


def _parts(shape: dict, kind: str, size: tuple[int, int], where: str) -> list:
    """The polygons or the RLE of a shape."""
    try:
        points = np.asarray(shape.get('points'), float).reshape(-1, 2)
    except (TypeError, ValueError) as error:
        raise InputError(f'{where}: its points are not a list of [x, y]: delete it, or draw it again') from error
    if not np.isfinite(points).all():
        raise InputError(f'{where}: a coordinate is NaN or infinite: delete it, or draw it again')
    if kind == 'mask':
        return [_mask(shape, points, size, where)]
    if kind == 'rectangle' and len(points) == 2:
        (x1, y1), (x2, y2) = points
        points = np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)])
    elif kind == 'circle' and len(points) == 2:
        centre, edge = points
        angles = np.arange(_CORNERS_OF_A_CIRCLE) * (2 * math.pi / _CORNERS_OF_A_CIRCLE)
        points = centre + math.dist(centre, edge) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        points = points.round(3)
    elif kind not in ('polygon', 'rectangle', 'oriented_rectangle'):
        raise InputError(f"{where}: shapes of type '{kind}' are not known: draw it as a polygon")
    if len(points) < 3:
        raise InputError(f'{where}: a {kind} of {len(points)} points has no area: delete it, or draw it again')
    return clipped(points.ravel().tolist(), size)


def _mask(shape: dict, points: np.ndarray, size: tuple[int, int], where: str) -> dict:
    try:
        with Image.open(io.BytesIO(_decoded(shape.get('mask'), f'{where}: its mask'))) as image:
            pixels = np.asarray(image.convert('L')) > 0
    except READ_ERRORS as error:
        raise InputError(f'{where}: its mask is not a picture: delete it, or draw it again') from error
    if not len(points):
        raise InputError(f'{where}: a mask without points has no place: delete it, or draw it again')
    bitmap = np.zeros(size[::-1], bool)
    x, y = points[0].astype(int)
    height, width = pixels.shape
    if x < 0 or y < 0 or x + width > size[0] or y + height > size[1]:
        raise InputError(f'{where}: its mask reaches over the border of the image: delete it, or draw it again')
    bitmap[y : y + height, x : x + width] = pixels
    return encoded(bitmap)
