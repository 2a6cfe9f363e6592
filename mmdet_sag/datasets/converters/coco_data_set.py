"""Data sets in COCO's format: read as one of the label formats, and written as what all become."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...fileio import atomic_folder
from ..annotation_problems import box_problems, category_problems, is_usable_image, polygon_problem
from ..coco_file import load_coco
from .image_header import without_exif
from .labelled_data import LabelledData, LabelledImage, LabelledObject, ReadOptions
from .masks import box_and_area
from .source_files import files_below, read_if_possible, read_json, split_of

SPLITS = ('train', 'val', 'test')
_REPAIR = "'tools/misc/check_dataset.py CONFIG --fix OUT.json' repairs a copy"


def is_coco(source: Path) -> bool:
    """Whether a path is a JSON file of instances in COCO's format, or a folder that holds some."""
    return bool(_annotation_files(source))


def read_coco(source: Path, options: ReadOptions) -> LabelledData:
    """Read instance annotations in COCO's format. Ids change; masks, boxes and areas do not.

    Args:
        source: An annotation file, or a folder of them: ``annotations/instances_*.json`` or, as Roboflow writes them,
            ``train/_annotations.coco.json``.
        options: ``image_folder``, if the images are elsewhere.

    Raises:
        InputError: An image is missing, or an annotation cannot be used.
    """
    options.refuse_class_names(source)
    files = _annotation_files(source)
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
                raise InputError(f'{where}: its image is not listed: {_REPAIR}')
            image = by_id[annotation['image_id']]
            image.objects.append(_object(annotation, names, image, where))
    return LabelledData(list(classes), list(images.values()))


def _annotation_files(source: Path) -> list[Path]:
    if source.is_file():
        return [source] if source.suffix.lower() == '.json' and _is_instances(source) else []
    return list(filter(_is_instances, files_below(source, '.json')))


def _is_instances(path: Path) -> bool:
    content = read_if_possible(read_json, path)
    if not {'images', 'annotations', 'categories'} <= content.keys():
        return False
    annotations = content['annotations']
    first = annotations[0] if isinstance(annotations, list) and annotations else None
    # The folder may also have panoptic annotations and keypoints.
    return not (isinstance(first, dict) and ('segments_info' in first or 'keypoints' in first))


def _names(content: dict, path: Path) -> dict[Any, str]:
    """Class names by category id."""
    categories = content['categories']
    problems = category_problems(categories, None)
    if problems:
        raise InputError(f"annotation file '{path}': {problems[0][0]}, {problems[0][1]}: correct the categories")
    used = Counter(a.get('category_id') for a in content['annotations'] if isinstance(a, dict))
    above = {category.get('supercategory') for category in categories}
    # Roboflow lists the name of the data set as category 0.
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
    name = Path(entry['file_name'])
    place = name.as_posix() if not name.is_absolute() and '..' not in name.parts else name.name
    return LabelledImage.open(image_path, place, (int(entry['width']), int(entry['height'])), options)


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


def write_data_set(out: Path, images: Sequence[LabelledImage], classes: Sequence[str], link: bool = False) -> None:
    """Write ``annotations/instances_{train,val,test}.json`` and the folders of images, atomically.

    Category ids are 1, 2, ... in the order of the classes. The files do not depend on time or place.

    Args:
        out: Folder of the data set, which is replaced.
        images: The images; each has a split.
        classes: Class names.
        link: Whether to write links to the images instead of copies.

    Raises:
        InputError: The folder cannot be written.
    """
    numbers = {name: number for number, name in enumerate(classes, 1)}
    contents = {
        split: dict(images=[], annotations=[], categories=[dict(id=i, name=name) for name, i in numbers.items()])
        for split in SPLITS
        if any(image.split == split for image in images)
    }
    image_id = annotation_id = 0
    for split, content in contents.items():
        for image in images:
            if image.split != split:
                continue
            image_id += 1
            width, height = image.size
            content['images'].append(dict(id=image_id, file_name=image.name, width=width, height=height))
            for item in image.objects:
                annotation_id += 1
                content['annotations'].append(_annotation(item, annotation_id, image_id, numbers[item.name]))
    try:
        with atomic_folder(out) as folder:
            (folder / 'annotations').mkdir()
            for split, content in contents.items():
                (folder / f'annotations/instances_{split}.json').write_text(json.dumps(content), encoding='utf-8')
            for image in images:
                _write_image(image, folder / image.split / image.name, link)
    except OSError as error:
        raise InputError(f"--out '{out}' cannot be written: {error.strerror or error}") from error


def _annotation(item: LabelledObject, annotation_id: int, image_id: int, category_id: int) -> dict:
    box, area = item.bbox, item.area
    if box is None or area is None:
        box, area = box_and_area(item.segmentation)
    ids = dict(id=annotation_id, image_id=image_id, category_id=category_id)
    return dict(**ids, bbox=box, area=area, iscrowd=int(item.is_crowd), segmentation=item.segmentation)


def _write_image(image: LabelledImage, target: Path, link: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if image.drops_orientation:
        target.write_bytes(without_exif(image.path, image.content or image.path.read_bytes()))
    elif image.content:
        target.write_bytes(image.content)
    elif link:
        target.symlink_to(image.path.resolve())
    else:
        shutil.copyfile(image.path, target)
