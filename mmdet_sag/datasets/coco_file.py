"""Reading of annotation files in COCO's format."""

import gc
import json
import math
from itertools import islice
from pathlib import Path

from ..errors import InputError


def check_not_yolo(path: str) -> None:
    """Check that a path is not what YOLO is trained from: a folder of labels, a file of them, or ``data.yaml``.

    ``path`` is what a config names as annotation file, or as folder of the data; it may not exist.
    """
    place = Path(path)
    if place.is_dir():
        found = any(place.glob('data.y*ml')) or any(map(has_yolo_labels, islice(place.glob('**/*.txt'), 10)))
        source = place
    else:
        is_yaml = place.suffix in ('.yaml', '.yml') and place.is_file() and 'names' in place.read_text(errors='ignore')
        found = is_yaml or has_yolo_labels(place)
        # labels/train/1.txt belongs to what lies beside labels.
        above = [folder.parent for folder in place.parents if folder.name == 'labels']
        source = above[0] if above else place.parent
    if found:
        raise InputError(
            f"'{path}' holds labels of YOLO, not annotations in COCO's format: convert them with "
            f"'mmdet-sag convert-data {source} --out DIR', and name the file that this writes"
        )


def has_yolo_labels(path: Path) -> bool:
    """Whether a text file begins with a line of YOLO: a class, and 4 numbers of a box or 6 or more of a polygon.

    The numbers are fractions of the image. Pixels also count: the converter says that they must be divided.
    """
    if path.suffix != '.txt' or not path.is_file():
        return False
    with open(path, encoding='utf-8-sig', errors='ignore') as file:
        words = file.readline(100000).split()
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        return False
    return len(numbers) >= 5 and numbers[0].is_integer() and all(map(math.isfinite, numbers))


def load_coco(path: str, annotations_needed: bool = True, mapping: bool = False) -> dict:
    """Load an annotation file, so that ``images``, ``categories`` and ``annotations`` are lists.

    If annotations are needed, a file without them, such as the one of COCO's test images, is refused. ``mapping`` says
    whether ``annotations`` may be a mapping, as LIVECell's, and the file have a BOM: MMDetection can read neither.
    """
    # The garbage collector would traverse the growing content again and again, for half of the time.
    collects = gc.isenabled()
    gc.disable()
    try:
        # MMDetection reads no other encoding.
        with open(path, encoding='utf-8-sig' if mapping else 'utf-8') as file:
            content = json.load(file)
    except OSError as error:
        raise InputError(f"annotation file '{path}' cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        check_not_yolo(path)
        is_encoded = isinstance(error, UnicodeDecodeError) or 'BOM' in str(error)
        remedy = 'save it as UTF-8 without BOM' if is_encoded else 'it may be truncated; copy or export it again'
        raise InputError(f"annotation file '{path}' is not valid JSON ({error}): {remedy}") from error
    finally:
        if collects:
            gc.enable()
    if not isinstance(content, dict):
        raise InputError(
            f"annotation file '{path}' is not in COCO's format: it holds a {type(content).__name__} instead of a "
            'mapping with images, annotations and categories; a file of results cannot be used here'
        )
    needed = ['images', 'categories'] + (['annotations'] if annotations_needed else [])
    missing = [key for key in needed if key not in content]
    if missing:
        raise InputError(
            f"annotation file '{path}' is not in COCO's format: it has no {' and no '.join(missing)}; export it as "
            'COCO instances'
        )
    content.setdefault('annotations', [])
    if mapping and isinstance(content['annotations'], dict):
        content['annotations'] = list(content['annotations'].values())
    for key in ('images', 'categories', 'annotations'):
        if not isinstance(content[key], list):
            raise InputError(
                f"annotation file '{path}' is not in COCO's format: {key} is a {type(content[key]).__name__} instead "
                'of a list'
            )
    return content
