import logging
import string
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from matplotlib.font_manager import fontManager
from matplotlib.ft2font import FT2Font
from mmengine.logging import print_log
from mmengine.structures import InstanceData
from PIL import Image, ImageDraw, ImageFont

# Small images are enlarged to this shorter side, so that names fit, up to this longer side.
_SHORT, _LONG = 480, 1600
_FONT = str(Path(matplotlib.get_data_path(), 'fonts/ttf/DejaVuSans-Bold.ttf'))


def draw_instances(
    image: np.ndarray,
    instances: InstanceData,
    classes: Sequence[str],
    colours: Sequence[tuple[int, int, int]] | str | None = None,
    max_names: int = 25,
    strip: bool = True,
) -> np.ndarray:
    """Draw detections as filled outlines in the colours of their classes, with names and scores.

    This takes a hundredth of the time of MMDetection's visualizer, and enlarges small images. With more than
    ``max_names`` detections, a strip below the image names the classes instead. Detections without a mask, or with an
    empty one, are drawn as boxes.

    Args:
        image: The image, BGR, (H, W, 3).
        instances: Detections with ``bboxes``, ``labels``, ``scores`` and optional ``masks``, as a tensor of bitmaps or
            :class:`RLEMasks`.
        classes: Class names.
        colours: RGB colours of the classes; None, or the name of a palette: hues far apart.
        max_names: Largest number of detections that are named one by one.
        strip: Whether to allow a strip; frames of a video need one size.

    Returns:
        The picture, BGR, enlarged if the image is small, with a strip below if there are many detections.
    """
    instances = instances.cpu()
    zoom = int(np.clip(min(_SHORT / min(image.shape[:2]), _LONG / max(image.shape[:2])), 1, 8))
    picture = cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
    labels, scores = instances.labels.tolist(), instances.scores.tolist()
    boxes = (instances.bboxes.numpy() * zoom).round().astype(int).tolist()
    palette = {label: _colour(label, colours) for label in set(labels)}
    for i in reversed(range(len(labels))):
        colour = palette[labels[i]]
        bitmap = None
        if 'masks' in instances:
            mask = instances.masks[i]
            bitmap = (mask.decode() if hasattr(mask, 'decode') else mask.numpy()).astype(np.uint8)
        if bitmap is not None and bitmap.any():
            _paint(picture, bitmap, zoom, colour)
        else:
            x1, y1, x2, y2 = boxes[i]
            cv2.rectangle(picture, (x1, y1), (x2, y2), (255, 255, 255), 4, cv2.LINE_AA)
            cv2.rectangle(picture, (x1, y1), (x2, y2), colour, 2, cv2.LINE_AA)
    if not labels:
        return picture
    size = int(np.clip(min(picture.shape[:2]) / 40, 12, 24))
    if len(labels) > max_names:
        if not strip:
            return picture
        return _with_strip(picture, [(classes[k], labels.count(k), palette[k]) for k in sorted(palette)], size)
    return _with_names(picture, boxes, [f'{classes[k]} {s:.2f}' for k, s in zip(labels, scores)], size)


def _font_file(texts: Iterable[str]) -> str:
    """Return the default font, or if it lacks characters of the texts, an installed font that has them."""
    return _font_with(frozenset(''.join(texts)) - _characters(_FONT))


@lru_cache
def _font_with(characters: frozenset[str]) -> str:
    if not characters:
        return _FONT
    # Matplotlib's font of last resort has a box for every character.
    installed = {font.fname for font in fontManager.ttflist if 'LastResort' not in font.fname}
    for file in sorted(installed):
        try:
            if characters | set(string.ascii_letters + string.digits) <= _characters(file):
                return file
        except (OSError, RuntimeError):
            # The list is a cache: fonts may be deleted or unreadable.
            continue
    print_log(
        f'no installed font has {"".join(sorted(characters))} of class names, which are drawn as boxes: '
        f'install a font such as Noto Sans CJK, and delete the list of fonts in {matplotlib.get_cachedir()}',
        'current',
        logging.WARNING,
    )
    return _FONT


@lru_cache
def _characters(font_file: str) -> frozenset[str]:
    return frozenset(map(chr, FT2Font(font_file).get_charmap()))


def _colour(label: int, colours) -> tuple[int, int, int]:
    """Return the BGR colour of a class."""
    if isinstance(colours, (list, tuple)) and label < len(colours):
        return tuple(int(c) for c in reversed(colours[label]))
    # The golden angle: neighbours differ, and no number of classes repeats a hue.
    hue = np.array([[[label * 137.508 % 360 / 2, 210, (235, 180, 255)[label % 3]]]]).astype(np.uint8)
    return tuple(int(c) for c in cv2.cvtColor(hue, cv2.COLOR_HSV2BGR)[0, 0])


def _paint(picture: np.ndarray, bitmap: np.ndarray, zoom: int, colour: tuple[int, int, int]) -> None:
    x, y, w, h = cv2.boundingRect(bitmap)
    crop = cv2.resize(bitmap[y : y + h, x : x + w], None, fx=zoom, fy=zoom, interpolation=cv2.INTER_NEAREST)
    part = picture[y * zoom : (y + h) * zoom, x * zoom : (x + w) * zoom]
    inside = crop.astype(bool)
    part[inside] = (0.55 * part[inside] + 0.45 * np.array(colour)).astype(np.uint8)
    contours, _ = cv2.findContours(crop, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    offset = (x * zoom, y * zoom)
    cv2.drawContours(picture, contours, -1, (255, 255, 255), 4, cv2.LINE_AA, offset=offset)
    cv2.drawContours(picture, contours, -1, colour, 2, cv2.LINE_AA, offset=offset)


def _with_names(picture: np.ndarray, boxes: list, names: list[str], size: int) -> np.ndarray:
    canvas = Image.fromarray(picture)
    file = _font_file(names)
    draw, font = ImageDraw.Draw(canvas), ImageFont.truetype(file, size)
    longest = max(draw.textlength(name, font) for name in names) + 4
    if longest > canvas.width:
        size = max(int(size * canvas.width / longest), 8)
        font = ImageFont.truetype(file, size)
    taken = []
    for (x1, y1, *_), name in zip(boxes, names):
        width, height = draw.textlength(name, font) + 4, size + 4
        x = max(min(x1, canvas.width - width), 0)
        first = y = max(min(y1 - height, canvas.height - height), 0)
        # Names go below others; in a full picture, over them.
        while any(abs(y - b) < height and x < a + c and a < x + width for a, b, c in taken):
            y += 2
            if y > canvas.height - height:
                y = first
                break
        taken.append((x, y, width))
        draw.text((x + 2, y), name, (255, 255, 255), font, stroke_width=max(size // 8, 2), stroke_fill=(0, 0, 0))
    return np.array(canvas)


def _with_strip(picture: np.ndarray, entries: list, size: int) -> np.ndarray:
    """Add a strip with the colour, name and number of each class below the picture."""
    font = ImageFont.truetype(_font_file(name for name, *_ in entries), size)
    rows: list[list] = [[]]
    left = size
    for name, number, colour in entries:
        text = f'{name}: {number}'
        width = size * 3 + font.getlength(text)
        if rows[-1] and left + width > picture.shape[1]:
            rows.append([])
            left = size
        rows[-1].append((left, text, colour))
        left += width
    strip = Image.new('RGB', (picture.shape[1], int(size * 1.8) * len(rows)), (255, 255, 255))
    draw = ImageDraw.Draw(strip)
    for i, row in enumerate(rows):
        top = int(size * 1.8) * i + size * 0.3
        for x, text, colour in row:
            draw.rectangle((x, top + size * 0.2, x + size, top + size * 1.1), fill=colour)
            draw.text((x + size * 1.4, top), text, (0, 0, 0), font)
    return np.concatenate([picture, np.array(strip)], axis=0)
