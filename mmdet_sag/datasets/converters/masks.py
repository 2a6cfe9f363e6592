"""Masks as pictures, bitmaps, polygons and COCO's run lengths."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import shapely
from pycocotools import mask as mask_api
from shapely.geometry.base import BaseGeometry

from ...errors import InputError
from .source_files import READ_ERRORS, EntryError, open_image

# Digits of an area. What is 0 with them has none.
_DIGITS = 2
# Levels of a smoothed mask are nearly black below the first and nearly white from the second.
_BLACK, _WHITE = 32, 224
# So few may be classes.
_FEW_LEVELS = 3
# So few may lie on a slope by chance.
_FEW_PIXELS = 32
# Share of grey pixels on a slope.
_SLOPE = 0.65


def read_values(path: Path, colours: bool = False) -> np.ndarray:
    """Values of a mask picture (H, W), int32: grey values, indices of a palette, or R * 65536 + G * 256 + B.

    With ``colours``, a palette's colours are read instead of its indices.
    """
    try:
        with open_image(path) as image:
            if image.format == 'JPEG':
                raise InputError(
                    f"mask '{path}' is a JPEG, whose values are not exact: export the masks as PNG, or make PNGs of 0 "
                    "and 255 with ImageMagick's 'mogrify -format png -threshold 50% *.jpg', if they are black and white"
                )
            if colours or image.mode in ('RGB', 'RGBA', 'RGBX'):
                red, green, blue = np.moveaxis(np.asarray(image.convert('RGB'), np.int32), -1, 0)
                return (red << 16) + (green << 8) + blue
            if image.mode == 'F':
                raise InputError(f"mask '{path}' has fractions as values: export the masks as 8- or 16-bit PNG")
            if image.mode in ('LA', 'PA'):
                image = image.getchannel(0)
            return np.asarray(image).astype(np.int32)
    except InputError:
        raise
    except READ_ERRORS as error:
        raise EntryError(f"mask '{path}'", 'the mask cannot be read', 'export it again') from error


def is_smoothed(values: np.ndarray) -> bool:
    """Whether a mask picture (H, W) is black and white with levels between, as scaling, blurring and JPEG make them.

    A grey pixel then lies on a slope, with a darker and a brighter one beside it, which few pixels of numbered objects
    do. JPEG leaves hardly a grey level, but many that are nearly black and nearly white.
    """
    step = 0x10101 if values.max() > 0xFFFF else 1
    if not _WHITE * step <= values.max() <= 255 * step or (values % step).any():
        return False
    levels = (values // step).astype(np.uint8)
    counts = np.bincount(levels.ravel(), minlength=256)
    grey, white = counts[_BLACK:_WHITE].sum(), counts[_WHITE:].sum()
    num_dark, num_grey, num_bright = map(np.count_nonzero, (counts[1:_BLACK], counts[_BLACK:_WHITE], counts[_WHITE:-1]))
    if min(num_dark, num_bright) > _FEW_LEVELS and num_grey < num_dark + num_bright and 10 * grey < white:
        return True
    if num_grey < _FEW_LEVELS or grey < _FEW_PIXELS or 3 * white < grey:
        return False
    beside = np.ones((3, 3), np.uint8)
    slope = (cv2.erode(levels, beside) < levels) & (cv2.dilate(levels, beside) > levels)
    return bool(slope[(levels >= _BLACK) & (levels < _WHITE)].mean() > _SLOPE)


def clipped(polygon: Sequence[float], size: tuple[int, int]) -> list[list[float]]:
    """The part of a polygon ``[x1, y1, x2, y2, ...]`` in an image of this width and height, as polygons with area."""
    points = np.asarray(polygon, float).reshape(-1, 2)
    if not round(shapely.MultiPoint(points).convex_hull.area, _DIGITS):
        return []
    if (points >= 0).all() and (points <= size).all():
        return [list(polygon)]
    inside = shapely.clip_by_rect(shapely.make_valid(shapely.Polygon(points)), 0, 0, *size)
    corners = [
        np.round(part.exterior.coords[:-1], 3) for part in parts_without_holes(inside) if round(part.area, _DIGITS)
    ]
    return [part.ravel().tolist() for part in corners]


def parts_without_holes(region: BaseGeometry) -> Iterator[shapely.Polygon]:
    """Polygons that make up a region. COCO's have no holes: a part with a hole is cut in two through it."""
    for part in getattr(region, 'geoms', [region]):
        if not isinstance(part, shapely.Polygon):
            continue
        if not part.interiors:
            yield part
            continue
        x_min, y_min, x_max, y_max = part.bounds
        x_cut = part.interiors[0].centroid.x
        for half in (shapely.box(x_min, y_min, x_cut, y_max), shapely.box(x_cut, y_min, x_max, y_max)):
            yield from parts_without_holes(part.intersection(half))


def box_and_area(segmentation: list | dict) -> tuple[list[float], float]:
    """Box (x, y, width, height) and area of a mask in pixels.

    The area of polygons is the sum of their areas, as in COCO's files, not their number of pixels.
    """
    if isinstance(segmentation, dict):
        if isinstance(segmentation['counts'], list):
            segmentation = mask_api.frPyObjects(segmentation, *segmentation['size'])
        return mask_api.toBbox(segmentation).tolist(), int(mask_api.area(segmentation))
    rings = [np.asarray(polygon, float).reshape(-1, 2) for polygon in segmentation]
    x_min, y_min = np.concatenate(rings).min(axis=0)
    x_max, y_max = np.concatenate(rings).max(axis=0)
    area = sum(shapely.Polygon(ring).area for ring in rings)
    return [round(float(value), 2) for value in (x_min, y_min, x_max - x_min, y_max - y_min)], round(area, _DIGITS)


def encoded(bitmap: np.ndarray) -> dict:
    """Compressed RLE of a bitmap (H, W)."""
    return _as_json(mask_api.encode(np.asfortranarray(bitmap, dtype=np.uint8)))


def encoded_values(values: np.ndarray) -> dict[int, dict]:
    """Compressed RLE of the pixels of each value above 0 in a picture (H, W)."""
    flat = values.ravel(order='F')
    starts = np.flatnonzero(np.append(True, flat[1:] != flat[:-1]))
    # Start and end of each run. A bitmap for each of thousands of values would take minutes.
    edges = np.stack([starts, np.append(starts[1:], flat.size)], axis=1)
    order = np.argsort(flat[starts], kind='stable')
    found, firsts = np.unique(flat[starts][order], return_index=True)
    masks = {}
    for value, runs in zip(found.tolist(), np.split(order, firsts[1:])):
        if value > 0:
            counts = np.diff(edges[runs].ravel(), prepend=0, append=flat.size).tolist()
            rle = dict(size=values.shape, counts=counts if counts[-1] else counts[:-1])
            masks[value] = _as_json(mask_api.frPyObjects(rle, *values.shape))
    return masks


def merged(parts: Sequence[list | dict], size: tuple[int, int]) -> dict:
    """Compressed RLE of the union of polygons ``[x1, y1, ...]`` and RLEs in an image of this width and height."""
    runs = [part if isinstance(part, dict) else mask_api.frPyObjects([part], *size[::-1])[0] for part in parts]
    return _as_json(mask_api.merge(runs))


def union(pieces: Sequence[list | dict], size: tuple[int, int]) -> list | dict:
    """Mask of an object of several pieces: its polygons or, if one of them is an RLE, the RLE of all."""
    return list(pieces) if all(isinstance(piece, list) for piece in pieces) else merged(pieces, size)


def placed(pixels: np.ndarray, left: int, top: int, size: tuple[int, int], error: InputError) -> dict:
    """RLE of a bitmap (H, W) whose corner is at (left, top) of an image of this width and height.

    ``error`` is raised if it reaches over the border.
    """
    height, width = pixels.shape
    if left < 0 or top < 0 or left + width > size[0] or top + height > size[1]:
        raise error
    bitmap = np.zeros(size[::-1], bool)
    bitmap[top : top + height, left : left + width] = pixels
    return encoded(bitmap)


def connected(region: np.ndarray) -> list[dict]:
    """Compressed RLEs of the connected parts of a region (H, W), bool."""
    return list(encoded_values(cv2.connectedComponents(region.astype(np.uint8), connectivity=8)[1]).values())


def _as_json(rle: dict) -> dict:
    return dict(size=list(map(int, rle['size'])), counts=rle['counts'].decode())
