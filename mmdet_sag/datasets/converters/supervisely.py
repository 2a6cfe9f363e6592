"""Supervisely: a JSON file of figures for each image, ``DATASET/ann/NAME.jpg.json`` with ``DATASET/img/NAME.jpg``."""

import base64
import io
import re
import zlib
from pathlib import Path

import numpy as np
import shapely
from PIL import Image

from ...errors import InputError
from .image_header import READ_ERRORS
from .labelled_data import LabelledData, ReadOptions
from .masks import parts_without_holes, placed
from .source_files import read_json
from .tool_labels import (
    ToolLabels,
    WithoutArea,
    entries,
    files_that_begin,
    mapping,
    numbers,
    polygon,
    text,
)

_HEAD = re.compile(r'"classTitle"\s*:|"size"\s*:\s*\{\s*"(?:height|width)"[^}]*\}\s*,\s*"objects"\s*:\s*\[')
_WITHOUT_AREA = ('point', 'line', 'graph', 'cuboid')
_LARGEST_PICTURE = 2**28


def is_supervisely(source: Path) -> bool:
    """Whether a file, or one below a folder, is an annotation of Supervisely."""
    return any(files_that_begin(source, '.json', _HEAD))


def read_supervisely(source: Path, options: ReadOptions) -> LabelledData:
    """Read Supervisely's own format: polygons with their holes, bitmaps and rectangles. A folder may name the split.

    Args:
        source: Folder of the project or of a data set, or one JSON file.
        options: ``image_folder``, if the images are elsewhere.

    Raises:
        InputError: A file is damaged, or the images are missing.
    """
    options.refuse_class_names(source)
    labels = ToolLabels(source, options)
    for path in files_that_begin(source, '.json', _HEAD):
        with labels.left_out.collect('images'):
            content = read_json(path)
            size = mapping(content.get('size'))
            data_set = path.parent.parent if path.parent.name == 'ann' else path.parent
            name = f'{data_set.name}/img/{path.stem}'
            image = labels.image(name, path, (size.get('width'), size.get('height')), 'turned')
            labels.read_objects(image, entries(content.get('objects')), f"object {{}} of '{path}'", _object)
    return labels.data()


def _object(index: int, item: dict, size: tuple[int, int]) -> tuple[tuple, list]:
    return (text(item.get('classTitle'), 'figures without a class'), index), _pieces(item, size)


def _pieces(item: dict, size: tuple[int, int]) -> list:
    kind = item.get('geometryType')
    if kind in _WITHOUT_AREA:
        raise WithoutArea(f"figures of type '{kind}', which has no area")
    if kind == 'bitmap':
        return [_mask(mapping(item.get('bitmap')), size)]
    points = mapping(item.get('points'))
    outer = points.get('exterior')
    if kind == 'rectangle':
        corners = numbers(outer)[0]
        if corners.shape != (2, 2):
            raise InputError('rectangles that are not two corners')
        (x1, y1), (x2, y2) = corners
        return polygon([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], size)
    if kind != 'polygon':
        raise InputError('figures of an unknown type')
    holes = points.get('interior')
    if not holes:
        return polygon(outer, size)
    rings = [numbers(ring)[0] for ring in (outer, *(holes if isinstance(holes, list) else [None]))]
    if any(ring.ndim != 2 or ring.shape[1:] != (2,) or len(ring) < 3 for ring in rings):
        raise InputError('polygons of fewer than 3 points')
    region = shapely.make_valid(shapely.Polygon(rings[0], rings[1:]))
    return [
        piece
        for part in parts_without_holes(region)
        if part.area
        for piece in polygon(np.array(part.exterior.coords[:-1]), size)
    ]


def _mask(bitmap: dict, size: tuple[int, int]) -> dict:
    """RLE of a bitmap: a compressed PNG, whose opaque pixels are the object, and the place of its corner."""
    unpack = zlib.decompressobj()
    try:
        content = unpack.decompress(base64.b64decode(bitmap.get('data') or ''), _LARGEST_PICTURE)
        with Image.open(io.BytesIO(content)) as image:
            has_alpha = 'transparency' in image.info or image.mode in ('LA', 'PA', 'RGBA')
            pixels = np.asarray(image.convert('RGBA').getchannel('A') if has_alpha else image.convert('L')) > 0
    except (*READ_ERRORS, zlib.error, TypeError) as error:
        raise InputError('bitmaps that are not pictures') from error
    origin = numbers(bitmap.get('origin'))[0]
    if origin.shape != (2,):
        raise InputError('bitmaps without a place')
    mask = placed(pixels, *origin.astype(int), size)
    if mask is None:
        raise InputError('bitmaps that reach over the border of the image')
    return mask
