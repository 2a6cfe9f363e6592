import logging
import math
import string
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import matplotlib
import mmcv
import numpy as np
import torch
from matplotlib.font_manager import fontManager
from matplotlib.ft2font import FT2Font
from mmdet.evaluation.functional import INSTANCE_OFFSET
from mmdet.registry import VISUALIZERS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import get_box_tensor
from mmdet.structures.mask.structures import BaseInstanceMasks
from mmdet.visualization import DetLocalVisualizer
from mmengine.logging import print_log
from mmengine.structures import InstanceData, PixelData
from PIL import Image, ImageDraw, ImageFont
from torchvision.ops import masks_to_boxes

from .score_threshold import DEFAULT_SCORE_THR

# Small images are enlarged to this shorter side, so that names fit, up to this longer side.
_SHORT, _LONG = 480, 1600
_FONT = str(Path(matplotlib.get_data_path(), 'fonts/ttf/DejaVuSans-Bold.ttf'))


@VISUALIZERS.register_module(name=['InstanceLocalVisualizer', 'PanopticLocalVisualizer'])
class InstanceLocalVisualizer(DetLocalVisualizer):
    """Draws with :func:`draw_instances`: ground truth on the left, if there is any, predictions on the right.

    Of a panoptic or semantic segmentation, its segments are drawn in place of the instances.
    """

    def add_datasample(
        self,
        name: str,
        image: np.ndarray,
        data_sample: DetDataSample | None = None,
        draw_gt: bool = True,
        draw_pred: bool = True,
        show: bool = False,
        wait_time: float = 0,
        out_file: str | None = None,
        pred_score_thr: float = DEFAULT_SCORE_THR,
        step: int = 0,
    ) -> None:
        """Draw a data sample. Arguments are those of ``DetLocalVisualizer``."""
        pictures = []
        for kind, drawn in (('gt', draw_gt), ('pred', draw_pred)):
            instances = self._instances(data_sample, kind, pred_score_thr) if drawn and data_sample else None
            if instances is not None:
                pictures.append(self._picture(image, instances))
        picture = beside(*pictures) if pictures else image
        self.set_image(picture)
        if show:
            self.show(picture, win_name=name, wait_time=wait_time)
        if out_file is not None:
            write_picture(picture[..., ::-1], out_file)
        else:
            self.add_image(name, picture, step)

    def _instances(self, sample: DetDataSample, kind: str, score_thr: float) -> InstanceData | None:
        for key in (f'{kind}_panoptic_seg', f'{kind}_sem_seg'):
            if key in sample:
                return panoptic_instances(sample.get(key), len(self.dataset_meta['classes']))
        instances = sample.get(f'{kind}_instances')
        return instances if instances is None or kind == 'gt' else instances[instances.scores > score_thr]

    def _picture(self, image: np.ndarray, instances: InstanceData) -> np.ndarray:
        labels = instances.labels.tolist()
        classes = self.dataset_meta.get('classes') or [f'class {k}' for k in range(max(labels, default=0) + 1)]
        bgr = np.ascontiguousarray(image[..., ::-1])
        return draw_instances(bgr, instances, classes, self.dataset_meta.get('palette'))[..., ::-1]


def draw_instances(
    image: np.ndarray,
    instances: InstanceData,
    classes: Sequence[str],
    colours: Sequence[tuple[int, int, int]] | str | None = None,
    max_names: int = 25,
    strip: bool = True,
) -> np.ndarray:
    """Draw detections as filled outlines in the colours of their classes, with names and scores.

    This takes a hundredth of the time of MMDetection's visualizer, and enlarges small images. A model of one class has
    a colour for each detection. With more than ``max_names`` detections, or where their names would cover each other, a
    strip below the image names the classes instead, unless ``strip`` is False: frames of a video need one size.
    Detections without a mask, or with an empty one, are drawn as boxes.

    Args:
        image: The image, BGR, (H, W, 3), as is the picture that is returned.
        instances: Detections with ``bboxes``, ``labels``, and optional ``scores`` and ``masks``, as a tensor of bitmaps
            (n, H, W), :class:`RLEMasks` or MMDetection's ``BitmapMasks`` and ``PolygonMasks``.
        classes: Class names.
        colours: RGB colours of the classes; None, or the name of a palette: hues far apart.
        max_names: Largest number of detections that are named one by one.
        strip: See above.
    """
    instances = instances.cpu()
    zoom = max(min(math.ceil(_SHORT / min(image.shape[:2])), _LONG // max(image.shape[:2]), 8), 1)
    picture = cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
    labels = instances.labels.tolist()
    boxes = (get_box_tensor(instances.bboxes).numpy() * zoom).round().astype(int).tolist()
    masks = instances.get('masks')
    if isinstance(masks, BaseInstanceMasks):
        masks = masks.to_ndarray()
    each = len(classes) == 1
    drawn = [_colour(i, None) if each else _colour(label, colours) for i, label in enumerate(labels)]
    width = 1 + min(picture.shape[:2]) // 500
    for i in reversed(range(len(labels))):
        bitmap = None if masks is None else np.asarray(masks[i], dtype=np.uint8)
        if bitmap is not None and bitmap.any():
            _paint(picture, bitmap, zoom, drawn[i], width)
        else:
            x1, y1, x2, y2 = boxes[i]
            cv2.rectangle(picture, (x1, y1), (x2, y2), drawn[i], width + 1, cv2.LINE_AA)
    if not labels:
        return picture
    size = int(np.clip(min(picture.shape[:2]) / 40, 11, 24))
    names = [classes[label] for label in labels]
    if 'scores' in instances:
        names = [f'{name} {score:.2f}' for name, score in zip(names, instances.scores.tolist())]
    is_named = len(labels) <= max_names and _add_names(picture, boxes, names, drawn, size, needs_all=strip)
    if is_named or not strip:
        return picture
    entries = [(classes[k], labels.count(k), None if each else drawn[labels.index(k)]) for k in sorted(set(labels))]
    return _with_strip(picture, entries, size)


def panoptic_instances(segmentation: PixelData, num_classes: int) -> InstanceData:
    """Take a panoptic or semantic segmentation apart, for :func:`draw_instances`.

    ``sem_seg`` (1, H, W) is label + 1000 x instance number. Labels from ``num_classes`` on are no segments.

    Returns:
        The segments, things before stuff: ``bboxes``, ``labels`` and ``masks`` (n, H, W), bool.
    """
    ids = torch.as_tensor(segmentation.sem_seg).cpu()[0]
    segments = ids.unique().flip(0)
    segments = segments[segments % INSTANCE_OFFSET < num_classes]
    masks = ids == segments[:, None, None]
    return InstanceData(bboxes=masks_to_boxes(masks), labels=segments % INSTANCE_OFFSET, masks=masks)


def beside(*pictures: np.ndarray) -> np.ndarray:
    """Join pictures (H, W, 3) from left to right, white below those that are lower."""
    height = max(len(picture) for picture in pictures)
    pad = [((0, height - len(picture)), (0, 0), (0, 0)) for picture in pictures]
    return np.concatenate([np.pad(picture, p, constant_values=255) for picture, p in zip(pictures, pad)], axis=1)


def write_picture(picture: np.ndarray, path: str) -> None:
    """Write a picture of an image, BGR, (H, W, 3), to a path with the image's suffix.

    Where OpenCV cannot write that format in colour, such as .jfif and .pgm, it becomes a PNG file, and ``path`` ends in
    .png too.
    """
    is_known = cv2.haveImageWriter(path) and not path.lower().endswith('.pgm')
    mmcv.imwrite(picture, path if is_known else f'{path}.png')


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


def _paint(picture: np.ndarray, bitmap: np.ndarray, zoom: int, colour: tuple[int, int, int], width: int) -> None:
    x, y, w, h = cv2.boundingRect(bitmap)
    # A pixel around it, and no stairs in an enlarged outline.
    crop = cv2.copyMakeBorder(bitmap[y : y + h, x : x + w] * 255, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    crop = cv2.resize(crop, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_LINEAR)[zoom:-zoom, zoom:-zoom]
    crop = (crop > 127).astype(np.uint8)
    part = picture[y * zoom : (y + h) * zoom, x * zoom : (x + w) * zoom]
    inside = crop.astype(bool)
    part[inside] = (0.6 * part[inside] + 0.4 * np.array(colour)).astype(np.uint8)
    contours, _ = cv2.findContours(crop, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    light = tuple(int(0.7 * c + 0.3 * 255) for c in colour)
    cv2.drawContours(picture, contours, -1, light, width, cv2.LINE_AA, offset=(x * zoom, y * zoom))


def _add_names(
    picture: np.ndarray, boxes: list, names: list[str], colours: list[tuple], size: int, needs_all: bool
) -> bool:
    """Write the names at their boxes, none over another; return whether they were written.

    If ``needs_all``, that is only if there is room for every one.
    """
    canvas = Image.fromarray(picture)
    font = ImageFont.truetype(_font_file(names), size)
    draw = ImageDraw.Draw(canvas)
    height = size + 4
    places: list[tuple[int, int, int]] = []
    for (x1, y1, x2, y2), name in zip(boxes, names):
        width = math.ceil(draw.textlength(name, font)) + 6
        # Above the box, then down along its left and its right side.
        tried = [(x, y) for y in range(y1 - height, y2, height // 2) for x in (x1, x2 - width)]
        free = (
            (x, y, width)
            for x, y in ((_within(x, canvas.width - width), _within(y, canvas.height - height)) for x, y in tried)
            if not any(abs(y - b) < height and x < a + c and a < x + width for a, b, c in places)
        )
        place = next(free, None)
        if place is None and needs_all:
            return False
        places.append(place or (0, -height, 0))
    for (x, y, width), name, colour in zip(places, names, colours):
        if width:
            draw.rounded_rectangle((x, y, x + width - 1, y + height - 1), 3, fill=colour)
            # Luminance by Rec. 601, of BGR.
            dark = np.dot(colour, (0.114, 0.587, 0.299)) > 140
            draw.text((x + 3, y + 2), name, (0, 0, 0) if dark else (255, 255, 255), font)
    picture[:] = canvas
    return True


def _within(start: int, last: int) -> int:
    return max(min(start, last), 0)


def _with_strip(picture: np.ndarray, entries: list, size: int) -> np.ndarray:
    """Add a strip with the colour, if it has one, the name and the number of each class below the picture."""
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
            if colour is not None:
                draw.rectangle((x, top + size * 0.2, x + size, top + size * 1.1), fill=colour)
            draw.text((x + size * 1.4, top), text, (0, 0, 0), font)
    return np.concatenate([picture, np.array(strip)], axis=0)
