"""Problems of images, categories and annotations in a file in COCO's format, found without decoding an image.

Problems are keys of :data:`mmdet_sag.checks.PROBLEM_KINDS`, or pairs of such a kind and an example. ``image`` is the
usable entry of an annotation's image, or None.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

# Rasterising a polygon takes time and memory in proportion to its perimeter in pixels.
_MAX_COORDINATE = 1e6
# COCO's own boxes reach over the border by fractions of a pixel.
_BORDER_TOLERANCE = 1.0
# Of annotations whose category is not listed: beyond it, they are not a few strays.
_LARGE_SHARE = 0.25


def _is_number(value: Any) -> bool:
    # What JSON numbers become; bool is a subclass of int.
    return type(value) is float or type(value) is int


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def is_countable_id(value: Any) -> bool:
    """Whether COCOeval can count an annotation with this id: it takes 0 for an object that was not found."""
    return isinstance(value, int) and value > 0


def is_usable_image(image: Any) -> bool:
    """Whether an image entry has an id, a file name and a positive width and height."""
    return (
        isinstance(image, dict)
        and _is_id(image.get('id'))
        and isinstance(image.get('file_name'), str)
        and image['file_name'] != ''
        and all(_is_number(image.get(key)) and image[key] >= 1 for key in ('width', 'height'))
    )


def usable_images(entries: Sequence[Any]) -> tuple[dict, list[tuple[str, str]]]:
    """Return the usable image entries of a file by id, of equal ids the first, and the problems with examples."""
    images = {}
    problems = []
    file_names = set()
    for index, image in enumerate(entries):
        if not is_usable_image(image):
            problems.append(('image-entry-malformed', f'entry {index}'))
        elif image['id'] in images:
            problems.append(('duplicate-image-id', f'image {image["id"]}'))
        else:
            images[image['id']] = image
            if image['file_name'] in file_names:
                problems.append(('duplicate-file-name', image['file_name']))
            file_names.add(image['file_name'])
    return images, problems


def usable_category_ids(entries: Sequence[Any]) -> set:
    """Return the usable ids of a file's categories."""
    return {entry['id'] for entry in entries if isinstance(entry, dict) and _is_id(entry.get('id'))}


def category_problems(categories: Sequence[Any], classes: Sequence[str] | None) -> list[tuple[str, str]]:
    """Return the problems of a file's categories with examples; ``classes`` are those of a config, if any."""
    usable = [c for c in categories if isinstance(c, dict) and _is_id(c.get('id')) and isinstance(c.get('name'), str)]
    problems = [('category-malformed', f'category {category}') for category in categories if category not in usable]
    ids = [category['id'] for category in usable]
    names = [category['name'] for category in usable]
    for kind, values in (('duplicate-category-id', ids), ('duplicate-category-name', names)):
        problems += [(kind, f"category '{value}'") for value in dict.fromkeys(values) if values.count(value) > 1]
    if classes is None:
        return problems
    problems += [('class-not-in-file', f"'{name}'") for name in classes if name not in names]
    problems += [('duplicate-class', f"'{name}'") for name in dict.fromkeys(classes) if classes.count(name) > 1]
    problems += [('category-not-in-config', f"'{name}'") for name in dict.fromkeys(names) if name not in classes]
    # MMDetection numbers labels in the order of the file, but names them in the order of the config.
    in_file_order = [name for name in dict.fromkeys(names) if name in classes]
    in_config_order = [name for name in dict.fromkeys(classes) if name in names]
    if in_file_order != in_config_order:
        place = next(i for i, pair in enumerate(zip(in_file_order, in_config_order)) if pair[0] != pair[1])
        problems.append(
            ('class-order-differs', f"'{in_config_order[place]}' stands where the file has '{in_file_order[place]}'")
        )
    return problems


def category_id_problem(used: Mapping[Any, int], category_ids: Collection) -> str | None:
    """Return the mistake behind annotations of categories that are not listed, or None if they are a few strays.

    ``used`` is the number of annotations by category id.
    """
    unknown = {category_id for category_id in used if category_id not in category_ids}
    if not unknown:
        return None
    texts = {str(category_id) for category_id in category_ids}
    if any(str(category_id) in texts for category_id in unknown):
        return 'category-ids-as-text'
    if len(unknown) == 1 and all(isinstance(category_id, int) for category_id in (*unknown, *category_ids)):
        (stray,) = unknown
        first, last = min(category_ids, default=0), max(category_ids, default=0)
        if (stray == first - 1 == 0 and last not in used) or (stray == last + 1 and first == 0 and first not in used):
            return 'category-ids-shifted'
    num_unknown = sum(used[category_id] for category_id in unknown)
    return 'many-unknown-categories' if num_unknown >= _LARGE_SHARE * sum(used.values()) else None


def box_problems(annotation: dict, image: dict | None) -> list[str]:
    """Return the problems of an annotation's ``bbox`` (x, y, width, height in pixels) and ``area``."""
    problems = []
    if 'area' not in annotation:
        problems.append('missing-area')
    elif not _is_number(annotation['area']) or not math.isfinite(annotation['area']):
        problems.append('bad-area')
    elif annotation['area'] <= 0:
        problems.append('zero-area')

    if 'bbox' not in annotation:
        return [*problems, 'missing-box']
    box = annotation['bbox']
    if not isinstance(box, (list, tuple)) or len(box) != 4 or not all(map(_is_number, box)):
        return [*problems, 'malformed-box']
    if not all(map(math.isfinite, box)):
        return [*problems, 'non-finite-box']
    x, y, width, height = box
    if width <= 0 or height <= 0:
        return [*problems, 'empty-box']
    if width < 1 or height < 1:
        problems.append('sub-pixel-box')
    if image is not None:
        right, bottom = x + width, y + height
        if x >= image['width'] or y >= image['height'] or right <= 0 or bottom <= 0:
            problems.append('box-outside-image')
        elif max(-x, -y, right - image['width'], bottom - image['height']) > _BORDER_TOLERANCE:
            problems.append('box-over-border')
    return problems


def polygon_problem(polygon: Any, image: dict | None) -> str | None:
    """Return the problem of a polygon (x1, y1, x2, y2, ... in pixels), or None."""
    if not isinstance(polygon, (list, tuple)):
        return 'malformed-mask'
    if len(polygon) < 6:
        return 'short-polygon'
    if len(polygon) % 2:
        return 'odd-polygon'
    try:
        # A sum is NaN or infinite if a term is; max and min may pass over a NaN.
        if not math.isfinite(sum(polygon)):
            return 'non-finite-polygon'
        low, high = min(polygon), max(polygon)
    except TypeError:
        return 'malformed-mask'
    if high > _MAX_COORDINATE or low < -_MAX_COORDINATE:
        return 'non-finite-polygon'
    if image is not None and (low < 0 or high > min(image['width'], image['height'])):
        xs, ys = polygon[0::2], polygon[1::2]
        if min(xs) >= image['width'] or min(ys) >= image['height'] or max(xs) <= 0 or max(ys) <= 0:
            return 'polygon-outside-image'
    return None


def rle_problem(rle: dict, image: dict | None, decode: bool) -> str | None:
    """Return the problem of a mask in COCO's run-length encoding, or None.

    It has a ``size`` (height, width) and ``counts``, a list of run lengths or a compressed string. To decode
    such strings takes most of the time.
    """
    size, counts = rle.get('size'), rle.get('counts')
    if not isinstance(size, (list, tuple)) or len(size) != 2 or not all(isinstance(side, int) for side in size):
        return 'malformed-mask'
    if not isinstance(counts, (list, str)):
        return 'malformed-mask'
    if image is not None and (size[0] != image['height'] or size[1] != image['width']):
        return 'rle-size-mismatch'
    if isinstance(counts, str):
        if not counts:
            return 'undecodable-rle'
        if not decode:
            return None
        counts = _run_lengths(counts)
    # pycocotools does not check this sum: it reads beyond too few runs, and writes beyond the mask for too many.
    if not all(isinstance(run, int) and run >= 0 for run in counts) or sum(counts) != size[0] * size[1]:
        return 'undecodable-rle'
    return None if any(counts[1::2]) else 'empty-mask'


def _run_lengths(text: str) -> list[int]:
    """The run lengths of a compressed string of COCO, or [-1] if it is not one.

    A run is written in groups of five bits, the lowest first, each a character from '0' whose sixth bit says that more
    follow. From the fourth run, the number is the difference to the run before the last.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - ord('0')
        if not 0 <= bits < 64:
            return [-1]
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    return [-1] if shift else runs


def mask_problems(annotation: dict, image: dict | None, decode: bool = False, polygons_only: bool = False) -> list[str]:
    """Return the problems of an annotation's ``segmentation``, each once; see :func:`annotation_problems`."""
    mask = annotation.get('segmentation')
    if not mask:
        return ['missing-mask']
    if isinstance(mask, dict):
        problem = rle_problem(mask, image, decode)
        problems = [problem] if problem else []
        if polygons_only and not annotation.get('iscrowd'):
            problems.append('rle-object')
        return problems
    if not isinstance(mask, list):
        return ['malformed-mask']
    found = dict.fromkeys(polygon_problem(polygon, image) for polygon in mask)
    problems = [problem for problem in found if problem is not None]
    return problems + ['crowd-with-polygons'] if annotation.get('iscrowd') == 1 else problems


def annotation_problems(
    annotation: Any,
    images: dict,
    category_ids: Collection,
    masks_needed: bool = True,
    decode: bool = False,
    polygons_only: bool = False,
) -> list[str]:
    """Return the problems of one annotation, given the usable image entries by id and the ids of the categories.

    If masks are needed, they are checked; ``decode`` says whether to decode compressed run-length encodings, and
    ``polygons_only`` that an object's mask must be given as polygons.
    """
    keys = ('id', 'image_id', 'category_id')
    if not isinstance(annotation, dict) or not all(_is_id(annotation.get(key)) for key in keys):
        return ['annotation-malformed']
    problems = [] if is_countable_id(annotation['id']) else ['uncountable-annotation-id']
    image = images.get(annotation['image_id'])
    if image is None:
        problems.append('unknown-image')
    if annotation['category_id'] not in category_ids:
        problems.append('unknown-category')
    if 'iscrowd' not in annotation:
        problems.append('missing-iscrowd')
    elif annotation['iscrowd'] not in (0, 1):
        problems.append('bad-iscrowd')
    problems += box_problems(annotation, image)
    if masks_needed:
        problems += mask_problems(annotation, image, decode, polygons_only)
    return problems
