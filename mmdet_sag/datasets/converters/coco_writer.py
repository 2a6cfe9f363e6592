"""Labelled images as a data set in COCO's format: annotation files, and folders of images."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from ...errors import InputError
from ...fileio import atomic_folder, check_writable_folder
from .image_header import without_orientation
from .labelled_image import LabelledImage
from .outlines import box_and_area

SPLITS = ('train', 'val', 'test')
_MADE = {'annotations', *SPLITS}


def check_target(out: Path, sources: Sequence[Path], overwrite: bool) -> None:
    """Check, before anything is read, that a folder can be made or replaced.

    Args:
        out: The folder.
        sources: What is to be converted.
        overwrite: Whether an earlier data set may be replaced.

    Raises:
        InputError: It is in use for something else, or cannot be written.
    """
    place = out.resolve()
    for source in map(Path.resolve, sources):
        if place == source or place in source.parents or (source.is_dir() and source in place.parents):
            raise InputError(f"--out '{out}' and '{source}' lie one in the other: name a folder elsewhere")
    if place.exists() and not place.is_dir():
        raise InputError(f"--out '{out}' is a file: name a folder")
    held = {path.name for path in place.iterdir()} if place.is_dir() else set()
    if held and not overwrite:
        raise InputError(f"--out '{out}' exists: name another folder, or replace a data set made here with --overwrite")
    if held - _MADE or (held and 'annotations' not in held):
        raise InputError(
            f"--out '{out}' holds what was not made here ({', '.join(sorted(held - _MADE)[:3])}): name another folder"
        )
    check_writable_folder(place.parent, '--out')


def write_data_set(out: Path, images: Sequence[LabelledImage], classes: Sequence[str], link: bool = False) -> None:
    """Write ``annotations/instances_{train,val,test}.json`` and the folders of images, atomically.

    Category ids are 1, 2, ... in the order of the classes. Nothing in the files depends on when or where they are made.

    Args:
        out: Folder of the data set; what is there is replaced.
        images: The images, each with a split.
        classes: Class names.
        link: Whether links to the images take the place of copies.

    Raises:
        InputError: Two images would get one name, or the disk is full.
    """
    try:
        with atomic_folder(out) as folder:
            (folder / 'annotations').mkdir()
            first_image = first_annotation = 1
            for split in SPLITS:
                part = [image for image in images if image.split == split]
                if not part:
                    continue
                content = _content(part, classes, first_image, first_annotation)
                first_image += len(part)
                first_annotation += len(content['annotations'])
                (folder / f'annotations/instances_{split}.json').write_text(json.dumps(content), encoding='utf-8')
                for image in part:
                    _place(image, folder / split / image.name, link)
    except OSError as error:
        raise InputError(f"--out '{out}' cannot be written: {error.strerror or error}") from error


def _content(images: Sequence[LabelledImage], classes: Sequence[str], first_image: int, first_annotation: int) -> dict:
    categories = [dict(id=number, name=name) for number, name in enumerate(classes, 1)]
    numbers = {category['name']: category['id'] for category in categories}
    entries, annotations = [], []
    for image_id, image in enumerate(images, first_image):
        width, height = image.size
        entries.append(dict(id=image_id, file_name=image.name, width=width, height=height))
        for item in image.objects:
            box, area = item.bbox, item.area
            if box is None or area is None:
                box, area = box_and_area(item.segmentation)
            annotations.append(
                dict(
                    id=first_annotation + len(annotations),
                    image_id=image_id,
                    category_id=numbers[item.name],
                    bbox=box,
                    area=area,
                    iscrowd=int(item.is_crowd),
                    segmentation=item.segmentation,
                )
            )
    return dict(images=entries, annotations=annotations, categories=categories)


def _place(image: LabelledImage, target: Path, link: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if image.drops_orientation:
        target.write_bytes(without_orientation(image.path, image.content or image.path.read_bytes()))
    elif image.content:
        target.write_bytes(image.content)
    elif link:
        target.symlink_to(image.path.resolve())
    else:
        shutil.copyfile(image.path, target)
