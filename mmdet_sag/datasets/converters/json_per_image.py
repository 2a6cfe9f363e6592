"""ISAT, SA-1B and Supervisely: a JSON file of shapes for each image."""

import base64
import io
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import shapely
from PIL import Image
from shapely.geometry.base import BaseGeometry

from ...errors import InputError
from .labelled_data import LabelledData, ReadOptions
from .masks import parts_without_holes, placed
from .source_files import READ_ERRORS, read_json
from .tool_labels import Head, ToolLabels, WithoutArea, entries, mapping, numbers, polygon, run_lengths, text

_ISAT = Head('.json', r'"description"\s*:\s*"ISAT"')
_SA_1B = Head('.json', r'^\s*\{\s*"image"\s*:\s*\{[^{}]*"image_id"[^{}]*\}\s*,\s*"annotations"\s*:')
_SUPERVISELY = Head('.json', r'"classTitle"\s*:|"size"\s*:\s*\{\s*"(?:height|width)"[^}]*\}\s*,\s*"objects"\s*:\s*\[')
# The category of ISAT's polygons that make holes.
_BACKGROUND = '__background__'
# Of Supervisely.
_WITHOUT_AREA = ('point', 'line', 'graph', 'cuboid')
_LARGEST_PICTURE = 2**28

is_isat, is_segment_anything, is_supervisely = _ISAT.is_in, _SA_1B.is_in, _SUPERVISELY.is_in


def read_isat(source: Path, options: ReadOptions) -> LabelledData:
    """Read labels of ISAT as it shows them: a polygon hides what other objects and the background have in lower layers.

    Polygons of one category and group are one object. Polygons of the background are none, but make holes.
    """
    options.refuse_class_names(source)
    hidden = []

    def read(index: int, item: tuple[dict, BaseGeometry, BaseGeometry], size: tuple[int, int]) -> tuple[tuple, list]:
        shape, region, above = item
        if shape.get('category') == _BACKGROUND:
            raise WithoutArea('polygons of the background, which make holes')
        text(shape.get('category'), 'polygons without a category')
        pieces = polygon(shape.get('segmentation'), size)
        if region.intersection(above).area:
            pieces = _polygons(region.difference(above), size)
            if not pieces:
                raise WithoutArea('polygons that others hide')
            hidden.append(index)
        return _isat_key(index, shape), pieces

    def image_of(path: Path, content: dict) -> tuple[object, dict]:
        info = mapping(content.get('info'))
        return info.get('name'), info

    data = _read(source, options, _ISAT, image_of, 'objects', read, _in_layers)
    if hidden:
        data.notes.append(
            f'{len(hidden)} polygons are partly hidden by others in higher layers, as ISAT shows them; for whole ones, '
            "give ISAT's export of COCO"
        )
    return data


def _isat_key(index: int, shape: dict) -> tuple:
    """The object that a polygon of ISAT belongs to: its category, its group, and whether it is a crowd."""
    return shape.get('category'), str(shape.get('group', index)), shape.get('iscrowd') in (1, True)


def _in_layers(shapes: list[dict]) -> Iterator[tuple[dict, BaseGeometry, BaseGeometry]]:
    """Each polygon of ISAT, its region, and the region of those that lie over it and are not of its object."""
    regions = [_region(shape) for shape in shapes]
    keys = [_isat_key(index, shape) for index, shape in enumerate(shapes)]
    layers = [layer if isinstance(layer := shape.get('layer'), int | float) else 0 for shape in shapes]
    tree = shapely.STRtree(regions)
    for index, shape in enumerate(shapes):
        near = tree.query(regions[index], predicate='intersects')
        above = [regions[i] for i in near if layers[i] > layers[index] and keys[i] != keys[index]]
        yield shape, regions[index], shapely.union_all(above)


def _region(shape: dict) -> BaseGeometry:
    """Region of a polygon of ISAT, which is empty if the polygon is broken."""
    try:
        corners = numbers(shape.get('segmentation'))[0]
        return shapely.make_valid(shapely.Polygon(corners[:, :2]))
    except (InputError, ValueError, IndexError, shapely.errors.ShapelyError):
        return shapely.Polygon()


def read_segment_anything(source: Path, options: ReadOptions) -> LabelledData:
    """Read masks of SA-1B, as Segment Anything's generator writes them; all have the only class of ``options``."""
    if len(options.class_names or ()) != 1:
        raise InputError(f"'{source}' has masks without classes: give one name with --source-classes NAME")
    (label,) = options.class_names  # type: ignore[misc]

    def read(index: int, item: dict, size: tuple[int, int]) -> tuple[tuple, list]:
        return (label, index), [run_lengths(item.get('segmentation'), size)]

    def image_of(path: Path, content: dict) -> tuple[object, dict]:
        info = mapping(content.get('image'))
        return info.get('file_name'), info

    return _read(source, options, _SA_1B, image_of, 'annotations', read)


def read_supervisely(source: Path, options: ReadOptions) -> LabelledData:
    """Read Supervisely's own format: polygons with their holes, bitmaps and rectangles.

    ``DATASET/ann/NAME.jpg.json`` goes with ``DATASET/img/NAME.jpg``. A folder may name the split.
    """
    options.refuse_class_names(source)

    def read(index: int, item: dict, size: tuple[int, int]) -> tuple[tuple, list]:
        return (text(item.get('classTitle'), 'figures without a class'), index), _pieces(item, size)

    def image_of(path: Path, content: dict) -> tuple[object, dict]:
        data_set = path.parent.parent if path.parent.name == 'ann' else path.parent
        return f'{data_set.name}/img/{path.stem}', mapping(content.get('size'))

    return _read(source, options, _SUPERVISELY, image_of, 'objects', read)


def _read(
    source: Path,
    options: ReadOptions,
    head: Head,
    image_of: Callable[[Path, dict], tuple[object, dict]],
    shapes: str,
    read: Callable,
    prepare: Callable[[list[dict]], Iterable] = iter,
) -> LabelledData:
    """Read the files with a head, by what returns the image's name and its size, and by what reads a shape.

    ``prepare`` makes what ``read`` gets of the shapes of an image.
    """
    labels = ToolLabels(source, options)
    for path in labels.files(head):
        with labels.left_out.collect('images'):
            content = read_json(path)
            name, size = image_of(path, content)
            image = labels.image(name, path, (size.get('width'), size.get('height')), 'turned')
            items = enumerate(prepare(entries(content.get(shapes))))
            labels.read_objects(image, items, f"{shapes[:-1]} {{}} of '{path}'", read)
    return labels.data()


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
    return _polygons(shapely.make_valid(shapely.Polygon(rings[0], rings[1:])), size)


def _polygons(region: BaseGeometry, size: tuple[int, int]) -> list[list[float]]:
    """Polygons of a region, in an image of this width and height."""
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
    return placed(pixels, *origin.astype(int), size, InputError('bitmaps that reach over the border of the image'))
