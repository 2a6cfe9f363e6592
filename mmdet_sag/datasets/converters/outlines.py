"""Polygons and bitmaps of masks."""

from collections.abc import Iterator, Sequence

import numpy as np
import shapely
from pycocotools import mask as mask_api
from shapely.geometry.base import BaseGeometry


def clipped(polygon: Sequence[float], size: tuple[int, int]) -> list[list[float]]:
    """The part of a polygon inside the image, as polygons; the polygon itself where all of it is inside.

    Args:
        polygon: ``[x1, y1, x2, y2, ...]`` in pixels, of at least three points.
        size: Width and height of the image.
    """
    points = np.asarray(polygon, float).reshape(-1, 2)
    if (points >= 0).all() and (points <= size).all():
        return [list(polygon)]
    inside = shapely.clip_by_rect(shapely.make_valid(shapely.Polygon(points)), 0, 0, *size)
    corners = [np.round(part.exterior.coords[:-1], 3) for part in parts_without_holes(inside) if part.area > 0]
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
    """Box (x, y, width, height) and area of a mask.

    The area of polygons is the sum of their own, as in COCO's files, not the number of pixels.
    """
    if isinstance(segmentation, dict):
        if isinstance(segmentation['counts'], list):
            segmentation = mask_api.frPyObjects(segmentation, *segmentation['size'])
        return mask_api.toBbox(segmentation).tolist(), int(mask_api.area(segmentation))
    rings = [np.asarray(polygon, float).reshape(-1, 2) for polygon in segmentation]
    x_min, y_min = np.concatenate(rings).min(axis=0)
    x_max, y_max = np.concatenate(rings).max(axis=0)
    area = sum(_area(ring) for ring in rings)
    return [round(float(value), 2) for value in (x_min, y_min, x_max - x_min, y_max - y_min)], round(area, 2)


def encoded(bitmap: np.ndarray) -> dict:
    """RLE of a bitmap (H, W), compressed, as JSON can hold it."""
    rle = mask_api.encode(np.asfortranarray(bitmap, dtype=np.uint8))
    return _as_json(rle)


def merged(parts: Sequence[list | dict], size: tuple[int, int]) -> dict:
    """RLE of the union of masks.

    Args:
        parts: Polygons ``[x1, y1, ...]``, or RLE.
        size: Width and height of the image.
    """
    runs = [part if isinstance(part, dict) else mask_api.frPyObjects([part], *size[::-1])[0] for part in parts]
    return _as_json(mask_api.merge(runs))


def _as_json(rle: dict) -> dict:
    return dict(size=list(map(int, rle['size'])), counts=rle['counts'].decode())


def _area(ring: np.ndarray) -> float:
    # Relative to a corner: coordinates of large images would cost digits.
    x, y = (ring - ring[0]).T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)
