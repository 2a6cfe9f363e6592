"""Pictures of a report: images with outlines, which show a note when pointed at."""

import base64
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import pycocotools.mask as mask_utils
from markupsafe import Markup, escape

# Longest sides of a picture on the page, in CSS pixels.
_WIDTH, _WIDE, _HEIGHT = 380, 1160, 900
# More names than this would hide the image.
_MAX_NAMES = 12


class Outline(NamedTuple):
    """An object to draw: its mask in COCO's run-length encoding, a CSS colour, the name beside it, and the note that is
    shown when it is pointed at.
    """

    mask: dict
    colour: str
    name: str
    note: str
    dashed: bool = False
    strong: bool = False


def display_size(height: int, width: int) -> tuple[int, int]:
    """Return width and height of an image on the page; panoramas get the page's width."""
    limit = _WIDE if width > 2 * height else _WIDTH
    scale = min(limit / width, _HEIGHT / height)
    return max(round(width * scale), 1), max(round(height * scale), 1)


def encode_image(image: np.ndarray) -> str:
    """Return an image, BGR, (H, W, 3), as a ``data:`` address, in at most twice its size on the page."""
    height, width = image.shape[:2]
    shown = display_size(height, width)
    if width > 2 * shown[0]:
        image = cv2.resize(image, (2 * shown[0], 2 * shown[1]), interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, 85])
    return f'data:image/jpeg;base64,{base64.b64encode(data).decode()}'


def image_figure(image_id: str, size: tuple[int, int], outlines: Sequence[Outline], label: str) -> Markup:
    """Draw outlines, the most important last, over the SVG ``<image>`` of an id in the page, as an ``<svg>`` element.

    ``size`` is the image's height and width in pixels, ``label`` a description for screen readers.
    """
    height, width = size
    shown_width, shown_height = display_size(height, width)
    scale = shown_width / width
    shapes, names, taken = [], [], []
    are_few = len(outlines) <= _MAX_NAMES
    for outline in outlines:
        path = _svg_path(outline.mask, scale, shown_height / height)
        if path is None:
            continue
        d, left, top = path
        dash = ' stroke-dasharray="5 3"' if outline.dashed else ''
        stroke = 3 if outline.strong else 1.8
        fill = 0 if outline.dashed else 0.28
        shapes.append(
            f'<g><title>{escape(outline.note)}</title>'
            f'<path d="{d}" fill="none" stroke="#fff" stroke-width="{stroke + 1.6}"/>'
            f'<path d="{d}" fill="{outline.colour}" fill-opacity="{fill}" stroke="{outline.colour}" '
            f'stroke-width="{stroke}"{dash}/></g>'
        )
        if outline.name and (are_few or outline.strong):
            length = 6.9 * len(outline.name) + 6
            x = max(min(left, shown_width - length), 0)
            y = _free_place(x, min(max(top - 3, 12), shown_height - 3), length, taken, shown_height)
            # Without room for the name, the note has it.
            if y is not None:
                taken.append((x, y, length))
                names.append(f'<text x="{x:.0f}" y="{y:.0f}">{escape(outline.name)}</text>')
    return Markup(
        f'<svg class="picture" role="img" aria-label="{escape(label)}" viewBox="0 0 {shown_width} {shown_height}" '
        f'width="{shown_width}" height="{shown_height}"><use href="#{image_id}"/>{"".join(shapes + names)}</svg>'
    )


def _free_place(
    x: float, y: float, length: float, taken: list[tuple[float, float, float]], height: int
) -> float | None:
    """Return the nearest free line at or below ``y``, or None if the picture is full."""
    while y <= height - 3:
        if not any(abs(y - other) < 13 and x < left + width and left < x + length for left, other, width in taken):
            return y
        y += 4
    return None


def _svg_path(mask: dict, scale_x: float, scale_y: float) -> tuple[str, float, float] | None:
    """Return the path data of a mask, and its left and upper end, or None if it is empty."""
    x, y, w, h = (int(v) for v in mask_utils.toBbox(mask))
    if w == 0 or h == 0:
        return None
    crop = mask_utils.decode(mask)[y : y + h, x : x + w]
    # Outlines go around pixels, not through their centres, which shows in enlarged images.
    zoom = int(np.clip(np.ceil(2 * scale_x), 1, 8))
    crop = cv2.copyMakeBorder(crop, 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    large = cv2.resize(crop, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(large, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    parts = []
    for contour in contours:
        points = cv2.approxPolyDP(contour, 0.35 * zoom / max(scale_x, 0.25), closed=True).reshape(-1, 2)
        if len(points) < 3:
            points = contour.reshape(-1, 2)
        points = ((points + 0.5) / zoom - 1 + (x, y)) * (scale_x, scale_y)
        parts.append('M' + 'L'.join(f'{a:.1f} {b:.1f}' for a, b in points) + 'Z')
    return ''.join(parts), x * scale_x, y * scale_y
