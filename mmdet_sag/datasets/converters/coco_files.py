"""Files in COCO's format."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import InputError
from ..annotation_problems import box_problems, category_problems, is_usable_image, polygon_problem
from ..coco_file import load_coco
from .image_header import read_header
from .labelled_data import LabelledData
from .labelled_image import LabelledImage
from .labelled_object import LabelledObject
from .read_options import ReadOptions
from .source_files import files_below, read_json, split_of

_REPAIR = "'tools/misc/check_dataset.py CONFIG --fix OUT.json' repairs a copy"


def is_coco(source: Path) -> bool:
    """Whether a path is a JSON file in COCO's format, or a folder that holds some."""
    return bool(_annotation_files(source))


def read_coco(source: Path, options: ReadOptions) -> LabelledData:
    """Read instance annotations in COCO's format.

    Ids are given anew, masks, boxes and areas stay as they are.

    Args:
        source: An annotation file, or a folder of them: ``annotations/instances_*.json`` or, as Roboflow writes them,
            ``train/_annotations.coco.json``.
        options: ``image_folder`` if the images are elsewhere.

    Raises:
        InputError: An image is missing, or an annotation cannot be used.
    """
    options.refuse_class_names(source)
    files = _annotation_files(source)
    if not files:
        raise InputError(f"'{source}' has no annotations in COCO's format: give the JSON file")
    classes: dict[str, None] = {}
    images: dict[tuple, LabelledImage] = {}
    for path in files:
        content = load_coco(str(path))
        names = _names(content, path)
        classes.update(dict.fromkeys(names.values()))
        split = (split_of(path.stem) or split_of(path.parent.name)) if len(files) > 1 else None
        folder = _image_folder(path, content['images'], options.image_folder)
        by_id = {}
        for entry in content['images']:
            if not is_usable_image(entry):
                raise InputError(f"annotation file '{path}': an image entry lacks id, file_name or size: {_REPAIR}")
            image = _image(entry, folder, path, options)
            image.split = split
            # An image that two files annotate is one image.
            by_id[entry['id']] = images.setdefault((image.path.resolve(), split), image)
        for index, annotation in enumerate(content['annotations']):
            where = f"annotation file '{path}', entry {index} of the annotations"
            if not isinstance(annotation, dict) or annotation.get('image_id') not in by_id:
                raise InputError(f'{where}: is of no image of the file: {_REPAIR}')
            image = by_id[annotation['image_id']]
            image.objects.append(_object(annotation, names, image, where))
    return LabelledData(list(classes), list(images.values()))


def _annotation_files(source: Path) -> list[Path]:
    if source.is_file():
        return [source] if source.suffix.lower() == '.json' and _is_instances(source) else []
    return [path for path in files_below(source, '.json') if _is_instances(path)] if source.is_dir() else []


def _is_instances(path: Path) -> bool:
    try:
        content = read_json(path)
    except InputError:
        return False
    if not {'images', 'annotations', 'categories'} <= content.keys():
        return False
    # Panoptic annotations and keypoints of the same folder.
    return not any(
        isinstance(item, dict) and ('segments_info' in item or 'keypoints' in item)
        for item in content['annotations'][:1]
    )


def _names(content: dict, path: Path) -> dict[Any, str]:
    """Class names by category id."""
    problems = category_problems(content['categories'], None)
    if problems:
        raise InputError(f"annotation file '{path}': {problems[0][0]}, {problems[0][1]}: correct the categories")
    used = Counter(a.get('category_id') for a in content['annotations'] if isinstance(a, dict))
    categories = content['categories']
    above = {category.get('supercategory') for category in categories}
    # Roboflow lists the name of the whole data set as category 0.
    return {
        category['id']: category['name']
        for category in categories
        if used[category['id']] or category['name'] not in above - {category.get('supercategory')}
    }


def _image_folder(path: Path, entries: Sequence[Any], given: Path | None) -> Path:
    stem = path.stem.partition('_')[2] or path.stem
    parent = path.parent.parent
    split = split_of(path.stem)
    folders = [path.parent, parent / stem, parent / 'images' / stem, path.parent / 'images', parent / 'images', parent]
    if split:
        folders += [parent / split, parent / 'images' / split, path.parent / split]
    if given:
        folders = [given / stem, given]
    name = next((entry['file_name'] for entry in entries if is_usable_image(entry)), '')
    for folder in folders:
        if os.path.isfile(folder / name):
            return folder
    raise InputError(f"image '{name}' of annotation file '{path}' is not in '{folders[0]}': give --images DIR")


def _image(entry: dict, folder: Path, path: Path, options: ReadOptions) -> LabelledImage:
    image_path = folder / entry['file_name']
    if not image_path.is_file():
        raise InputError(f"image '{image_path}' of annotation file '{path}' does not exist: put it there, or {_REPAIR}")
    header = read_header(image_path)
    size = (int(entry['width']), int(entry['height']))
    stored = header.labels_are_of_stored(image_path, size, options.exif)
    name = Path(entry['file_name'])
    place = name.as_posix() if not name.is_absolute() and '..' not in name.parts else name.name
    return LabelledImage(image_path, place, header, drops_orientation=stored)


def _object(annotation: dict, names: dict, image: LabelledImage, where: str) -> LabelledObject:
    number = annotation.get('category_id')
    if not isinstance(number, (int, str)) or number not in names:
        raise InputError(f'{where}: category {number!r} is not listed (the ids are {list(names)[:5]}): {_REPAIR}')
    mask = annotation.get('segmentation')
    if isinstance(mask, dict) and {'size', 'counts'} <= mask.keys():
        if list(mask['size']) != [image.size[1], image.size[0]]:
            raise InputError(f'{where}: its mask is of another size than its image: {_REPAIR}')
    elif not isinstance(mask, list) or not mask:
        raise InputError(f'{where}: has no mask, and masks cannot be learnt from boxes: export it with segmentation')
    else:
        size = dict(width=image.size[0], height=image.size[1])
        problem = next(filter(None, (polygon_problem(polygon, size) for polygon in mask)), None)
        if problem:
            raise InputError(f'{where}: has a broken polygon ({problem}): {_REPAIR}')
    sound = not box_problems(annotation, None)
    return LabelledObject(
        names[number],
        mask,
        is_crowd=annotation.get('iscrowd') == 1,
        bbox=annotation['bbox'] if sound else None,
        area=annotation['area'] if sound else None,
    )
