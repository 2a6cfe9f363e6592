"""Data sets in COCO's format: read as one of the label formats, and written as what all become."""

import csv
import json
import math
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...fileio import atomic_folder
from ..annotation_problems import box_problems, category_problems, is_usable_image, mask_problems, polygon_problem
from ..coco_file import load_coco
from .labelled_data import LabelledData, LabelledImage, LabelledObject, ReadOptions
from .masks import box_and_area, clipped
from .source_files import EntryError, LeftOut, files_below, located, read_json_value, split_of, without_exif
from .tool_labels import Head, mapping, rectangle

SPLITS = ('train', 'val', 'test')
_REMEDY = 'correct or delete it'
# Also of a file that was cut short.
_HEAD = Head('.json', r'"(images|annotations|categories)"\s*:\s*\[')
# Images that are tried until one is found.
_TRIED = 100


def is_coco(source: Path) -> bool:
    """Whether a path is a JSON file of instances in COCO's format, or a folder that holds some."""
    return bool(annotation_files(source))


def read_coco(source: Path, options: ReadOptions) -> LabelledData:
    """Read instance annotations in COCO's format. Ids change; masks, boxes and areas do not.

    Files of a folder are ``annotations/instances_*.json`` or, as Roboflow writes them,
    ``train/_annotations.coco.json``.
    """
    options.refuse_class_names(source)
    data = LabelledData([], [])
    for path in filter(options.reads, annotation_files(source)):
        content = load_coco(str(path), mapping=True)
        names = _names(content, path)
        data.classes += [name for name in dict.fromkeys(names.values()) if name not in data.classes]
        split = split_of(path.stem) or split_of(path.parent.name)
        folder = image_folder(path, content['images'], options.image_folder)
        if folder is None:
            raise InputError(
                f"the images of annotation file '{path}' are not beside it: give --images DIR, or leave the file out "
                f"with --skip '{path}'"
            )
        listed, images = set(), {}
        for index, entry in enumerate(content['images']):
            with data.left_out.collect('images'):
                place = f"'{path}', entry {index} of the images"
                if not is_usable_image(entry) or str(entry['id']) in listed:
                    raise EntryError(place, 'lacks id, file_name or size, or has the id of another', _REMEDY)
                # VIA writes the numbers of its images as text, but only in the annotations.
                listed.add(str(entry['id']))
                image = images[str(entry['id'])] = _image(entry, folder, options)
                image.split, image.origin = split, path
        for index, annotation in enumerate(content['annotations']):
            with data.left_out.collect('objects'):
                place = f"'{path}', entry {index} of the annotations"
                number = str(annotation.get('image_id')) if isinstance(annotation, dict) else None
                if number not in listed:
                    raise EntryError(place, 'its image is not listed', _REMEDY)
                if number in images:
                    item = _object(annotation, names, images[number], place, options, data.left_out)
                    images[number].objects.append(item)
        data.images += images.values()
    _check_crowds(data, source)
    return data


def _check_crowds(data: LabelledData, source: Path) -> None:
    masks = [item.is_crowd for image in data.images for item in image.objects]
    crowds = sum(masks)
    if not crowds:
        return
    which = f'{crowds} of {len(masks)} masks' if crowds < len(masks) else f'all {crowds} masks'
    text = f"{which} of '{source}' are crowd regions (iscrowd 1), which are not learnt"
    text += ': if they are objects, such as brush masks of CVAT or Datumaro, give --crowds-are-objects'
    if crowds == len(masks):
        raise InputError(text)
    data.notes.append(text)


def annotation_files(source: Path) -> list[Path]:
    """The files of instances in COCO's format: the file itself, or those below a folder."""
    if source.is_file():
        return [source] if source.suffix.lower() == '.json' and _is_instances(source) else []
    return list(filter(_is_instances, files_below(source, '.json')))


def _is_instances(path: Path) -> bool:
    try:
        content = mapping(read_json_value(path))
    except InputError:
        # Left out, half of the data would be converted or checked without a word.
        if _HEAD.is_in(path):
            raise
        return False
    if not {'images', 'annotations', 'categories'} <= content.keys():
        return False
    annotations = content['annotations']
    # LIVECell's are a mapping.
    values = annotations.values() if isinstance(annotations, dict) else annotations
    first = next(iter(values), None) if isinstance(values, Iterable) else None
    # The folder may also have panoptic annotations and keypoints.
    return not (isinstance(first, dict) and ('segments_info' in first or first.get('keypoints')))


def _names(content: dict, path: Path) -> dict[str, str]:
    """Class names by category id as text."""
    categories = content['categories']
    # VIA repeats categories. Classes of one name are one.
    distinct = {repr((c.get('id'), c.get('name'))) if isinstance(c, dict) else repr(c): c for c in categories}
    problems = category_problems(list(distinct.values()), None)
    problems = [problem for problem in problems if problem[0] != 'duplicate-category-name']
    if problems:
        raise InputError(f"annotation file '{path}': {problems[0][0]}, {problems[0][1]}: correct the categories")
    used = Counter(str(a.get('category_id')) for a in content['annotations'] if isinstance(a, dict))
    above = {repr(category.get('supercategory')) for category in categories}
    # Roboflow lists the name of the data set as category 0.
    return {
        str(category['id']): category['name']
        for category in categories
        if used[str(category['id'])] or repr(category['name']) not in above - {repr(category.get('supercategory'))}
    }


def image_folder(path: Path, entries: Sequence[Any], given: Path | None = None) -> Path | None:
    """The folder of the images of an annotation file, where one of the usual places has an image; else None.

    ``given`` is the folder, or the one above it, if the user names it.
    """
    stem = path.stem.partition('_')[2] or path.stem
    parent = path.parent.parent
    split = split_of(path.stem)
    folders = [path.parent, parent / stem, parent / 'images' / stem, path.parent / 'images', parent / 'images', parent]
    # FiftyOne's.
    folders.append(path.parent / 'data')
    if split:
        folders += [parent / split, parent / 'images' / split, path.parent / split]
    if given:
        folders = [given / stem, given]
    # The first may be missing, and all must lie in one folder: another may have an image of the same name.
    names = [entry['file_name'] for entry in entries if is_usable_image(entry)]
    for name in names[:_TRIED]:
        for folder in folders:
            if located(name, [folder], moved=given is not None):
                return folder
    return None


def _image(entry: dict, folder: Path, options: ReadOptions) -> LabelledImage:
    path = located(entry['file_name'], [folder], moved=options.image_folder is not None)
    if path is None or not path.is_file():
        raise EntryError(f"image '{folder / entry['file_name']}'", 'the image does not exist', 'put it there')
    inside = path.is_relative_to(folder) and '..' not in path.parts
    name = path.relative_to(folder).as_posix() if inside else path.name
    size = tuple(int(value) if math.isfinite(value) else value for value in (entry['width'], entry['height']))
    return LabelledImage.open(path, name, size, options)


def _object(
    annotation: dict, names: dict, image: LabelledImage, place: str, options: ReadOptions, left_out: LeftOut
) -> LabelledObject:
    number = annotation.get('category_id')
    if str(number) not in names:
        detail = f'{number!r}; the ids are {", ".join(list(names)[:5])}'
        raise EntryError(place, 'its category is not listed', _REMEDY, detail)
    mask = annotation.get('segmentation')
    # VIA's polygons lack the outer list.
    if isinstance(mask, list) and mask and not isinstance(mask[0], list):
        mask = [mask]
    size = dict(width=image.size[0], height=image.size[1])
    if not mask and not options.boxes:
        raise EntryError(place, 'has no mask', 'export it with segmentation, or learn masks from boxes with --boxes')
    if not mask and {'missing-box', 'malformed-box', 'non-finite-box', 'empty-box'} & {*box_problems(annotation, None)}:
        raise EntryError(place, 'has neither mask nor box', _REMEDY)
    if not mask:
        mask = clipped(rectangle(*annotation['bbox'], 0, (0, 0)).ravel(), image.size)
        if not mask:
            raise EntryError(place, 'has a box outside the image', _REMEDY)
    problems = mask_problems(dict(segmentation=mask), size, decode=True)
    parts = [part for part in mask if not polygon_problem(part, size)] if isinstance(mask, list) else []
    if problems and not parts:
        raise EntryError(place, f'has a broken mask ({problems[0]})', _REMEDY)
    if problems:
        left_out.add('polygons', place, f'broken beside sound ones ({problems[0]})', _REMEDY)
        mask = parts
    sound = not problems and not box_problems(annotation, None)
    return LabelledObject(
        names[str(number)],
        mask,
        is_crowd=annotation.get('iscrowd') == 1 and not options.crowds_are_objects,
        bbox=annotation['bbox'] if sound else None,
        area=annotation['area'] if sound else None,
    )


def write_data_set(
    out: Path, images: Sequence[LabelledImage], classes: Sequence[str], link: bool, left_out: LeftOut
) -> None:
    """Write ``annotations/instances_{train,val,test}.json`` and the folders of images, atomically.

    Category ids are 1, 2, ... in the order of the classes. The files do not depend on time or place. An earlier folder
    is replaced. Each image has a split; ``link`` makes links instead of copies. What was left out is listed in
    ``annotations/left_out.csv``.
    """
    numbers = {name: number for number, name in enumerate(classes, 1)}
    contents = {
        split: dict(images=[], annotations=[], categories=[dict(id=i, name=name) for name, i in numbers.items()])
        for split in SPLITS
        if any(image.split == split for image in images)
    }
    annotation_id = 0
    for image_id, image in enumerate(sorted(images, key=lambda image: SPLITS.index(image.split)), 1):
        content = contents[image.split]
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
            if left_out:
                rows = [[kind, error.place, error.reason] for kind, errors in left_out.items() for error in errors]
                path = folder / 'annotations/left_out.csv'
                with path.open('w', encoding='utf-8', errors='replace', newline='') as file:
                    csv.writer(file).writerows([['kind', 'place', 'reason'], *rows])
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
