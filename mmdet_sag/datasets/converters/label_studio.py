"""Label Studio: a JSON file of tasks with their results."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from ...errors import InputError
from .labelled_data import LabelledData, LabelledImage, ReadOptions
from .masks import encoded
from .source_files import IMAGE_SUFFIXES, NOT_LEARNT, read_json_value
from .tool_labels import Head, ToolLabels, WithoutArea, ellipse, entries, mapping, numbers, polygon, rectangle

_HEAD = Head('.json', r'^\s*\[\s*\{.*"(annotations|completions)"\s*:\s*\[')
# Uploaded files get it before their name.
_UPLOAD = re.compile(r'^[0-9a-f]{8}-')

is_label_studio = _HEAD.is_in


def read_label_studio(source: Path, options: ReadOptions) -> LabelledData:
    """Read exports 'JSON' of Label Studio.

    Polygons, brushes, rectangles and ellipses are objects. Of several annotations of a task the last is taken; tasks
    without one are not labelled.
    """
    options.refuse_class_names(source)
    labels = ToolLabels(source, options)
    for path in labels.files(_HEAD):
        for task in entries(read_json_value(path)):
            _read_task(task, path, labels)
    return labels.data()


def _read_task(task: dict, path: Path, labels: ToolLabels) -> None:
    name = _image_name(task, labels)
    found = entries(task.get('annotations') or task.get('completions'))
    found = [item for item in found if not item.get('was_cancelled')]
    if not found:
        return
    if len(found) > 1:
        labels.left_out.add(NOT_LEARNT, f"'{name}'", "tasks' earlier annotations")
    results = [item for item in entries(found[-1].get('result')) if isinstance(item.get('value'), dict)]
    size = next(((item.get('original_width'), item.get('original_height')) for item in results), None)
    image = labels.image(name, path, size, 'turned')
    if image is None:
        return
    parts: dict = {}
    regions: set = set()
    for index, item in enumerate(results):
        value: Any = item['value']
        # A region whose class comes from a tag of its own is written once without and once with the class.
        key = str(item.get('id', index))
        label = next((value[name][0] for name in value if name.endswith('labels') and _is_texts(value[name])), None)
        if label is None:
            continue
        with labels.shape(f"region '{key}' of '{name}'"):
            if item.get('image_rotation'):
                raise InputError('regions of an image that was turned in the tool: turn it back')
            parts[label, key] = _pieces(value, image)
        regions.add(key)
    unlabelled = {
        str(item.get('id', i)) for i, item in enumerate(results) if item['value'].keys() & {'rle', 'points', 'x'}
    }
    for key in sorted(unlabelled - regions):
        labels.left_out.add('objects', f"region '{key}' of '{name}'", 'regions without a class')
    labels.add_objects(image, parts)


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and len(value) > 0 and isinstance(value[0], str) and value[0] != ''


def _image_name(task: dict, labels: ToolLabels) -> str:
    """Name of the image of a task: the data hold a path or an address of it."""
    texts = [text for text in mapping(task.get('data')).values() if isinstance(text, str)]
    names = [unquote(name) for text in texts for name in _paths(text)]
    name = next((name for name in names if name.lower().endswith(IMAGE_SUFFIXES)), str(task.get('file_upload')))
    folder, slash, last = name.rpartition('/')
    bare = _UPLOAD.sub('', last)
    return name if labels.has_image(last) or not labels.has_image(bare) else f'{folder}{slash}{bare}'


def _paths(text: str) -> list[str]:
    """The file that an address names: its path, or the ``d`` of ``/data/local-files/?d=``."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return [text]
    return [*parse_qs(parts.query).get('d', ()), parts.path, text]


def _pieces(value: dict, image: LabelledImage) -> list:
    """The polygons or the RLE of a region, whose lengths are per cent of the image."""
    size = image.size
    scale = np.divide(size, 100)
    if 'rle' in value:
        return [encoded(_brush(value['rle'], size))]
    if 'points' in value:
        return polygon(value['points'], size, scale)
    turn = numbers(value.get('rotation') or 0)[0]
    if 'radiusX' in value:
        x, y, *radii = numbers(*map(value.get, ('x', 'y', 'radiusX', 'radiusY'))) * np.tile(scale, 2)
        return polygon(ellipse(x, y, *radii, np.radians(turn)), size)
    if 'height' in value:
        x, y, *sides = numbers(*map(value.get, ('x', 'y', 'width', 'height'))) * np.tile(scale, 2)
        return polygon(rectangle(x, y, *sides, turn, (0, 0)), size)
    raise WithoutArea('regions without area, such as key points')


def _brush(codes: object, size: tuple[int, int]) -> np.ndarray:
    """Bitmap (H, W) of a brush.

    Its code is that of the package rle-pack of thi.ng: 32 bits for the number of values, 5 for the length of a value,
    4 x 4 for the lengths of counts; then runs: a bit that says whether one value follows or each, 2 bits that choose
    the length of the count, the count. The values are red, green, blue and alpha of each pixel.
    """
    if not isinstance(codes, list) or not all(type(code) is int and 0 <= code < 256 for code in codes):
        raise InputError('brushes that are not codes of 0 to 255')
    bits, place = ''.join(f'{code:08b}' for code in codes), 0

    def read(length: int) -> int:
        nonlocal place
        place += length
        if place > len(bits):
            raise InputError('brushes that end too early')
        return int(bits[place - length : place], 2)

    count, word = read(32), read(5) + 1
    lengths = [read(4) + 1 for _ in range(4)]
    if count != 4 * size[0] * size[1]:
        raise InputError('brushes of another size than the image')
    values = np.zeros(count, bool)
    start = 0
    while start < count:
        is_run = read(1)
        stop = start + 1 + read(lengths[read(2)])
        if is_run:
            values[start:stop] = read(word) > 0
        else:
            for index in range(start, min(stop, count)):
                values[index] = read(word) > 0
        start = stop
    return values.reshape(size[1], size[0], 4)[..., 3]
