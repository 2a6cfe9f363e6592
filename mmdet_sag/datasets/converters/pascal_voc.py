"""Pascal VOC: for each image a picture of its objects and one of their classes, or an XML file of boxes."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from ...errors import InputError
from .labelled_data import LabelledData, LabelledImage, LabelledObject, ReadOptions
from .masks import encoded, read_values
from .source_files import (
    NOT_LEARNT,
    EntryError,
    files_below,
    image_beside,
    images_below,
    read_lines,
    read_xml,
    split_of,
)
from .tool_labels import Head, ToolLabels, numbers, polygon, rectangle, text

_CLASSES = (
    'aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat', 'chair', 'cow', 'diningtable', 'dog',
    'horse', 'motorbike', 'person', 'pottedplant', 'sheep', 'sofa', 'train', 'tvmonitor',
)  # fmt: skip
# LabelImg writes <annotation verified="yes"> too, and files of images without an object.
_BOXES, _FILES = Head('.xml', r'<annotation\b.*<bndbox>'), Head('.xml', r'<annotation\b')
# The border between objects, as index of the palette and as colour.
_VOID, _VOID_COLOUR = 255, (224 << 16) + (224 << 8) + 192
_UNLISTED = 'images without labels, or in no train, val or test list of ImageSets'

is_voc_boxes = _BOXES.is_in


def is_pascal_voc(source: Path) -> bool:
    """Whether a folder has the layout of Pascal VOC's segmentation data."""
    return (source / 'SegmentationObject').is_dir()


def read_pascal_voc(source: Path, options: ReadOptions) -> LabelledData:
    """Read a folder with ``JPEGImages``, ``SegmentationObject`` and ``SegmentationClass``.

    The values of the pictures, or their colours as CVAT writes them, are objects and classes; the border is neither.
    ``ImageSets/Segmentation/train.txt`` and ``val.txt`` are the split. Class names are in ``labelmap.txt``, or those of
    ``options`` for classes 1, 2, ..., or Pascal VOC's.
    """
    colours = _labelmap(source / 'labelmap.txt')
    if colours:
        options.refuse_class_names(source)
    classes = list(options.class_names or dict.fromkeys(colours.values()) or _CLASSES)
    names = colours or dict(enumerate(classes, 1))
    splits = _splits(source / 'ImageSets/Segmentation')
    data = LabelledData(classes, [])
    image_folder, masks = options.image_folder or source / 'JPEGImages', source / 'SegmentationObject'
    for path in files_below(masks, '.png'):
        place = path.relative_to(masks)
        stem = place.with_suffix('').as_posix()
        if splits and stem not in splits:
            data.left_out.add(NOT_LEARNT, f"'{path}'", _UNLISTED)
            continue
        with data.left_out.collect('images'):
            image_path = image_beside(image_folder / place)
            class_path = source / 'SegmentationClass' / place
            if image_path is None or not class_path.is_file():
                what = f"image in '{image_folder}'" if image_path is None else "picture in 'SegmentationClass'"
                raise EntryError(f"'{path}'", f'has no {what}', 'put it there, or give --images DIR')
            object_numbers, class_numbers = read_values(path), read_values(class_path, colours=bool(colours))
            if object_numbers.shape != class_numbers.shape:
                raise EntryError(f"'{path}'", f"is of another size than '{class_path}'", 'export them again')
            name = place.with_suffix(image_path.suffix).as_posix()
            image = LabelledImage.open(image_path, name, object_numbers.shape[::-1], options, split=splits.get(stem))
            for number in np.unique(object_numbers).tolist():
                if number in (0, _VOID, _VOID_COLOUR):
                    continue
                region = object_numbers == number
                values, counts = np.unique(class_numbers[region], return_counts=True)
                label = names.get(int(values[counts.argmax()]))
                if label is None:
                    raise InputError(
                        f"'{class_path}': object {number} of '{path.name}' lies on a class without a name: give "
                        '--source-classes with the names of classes 1, 2, ..., or a labelmap.txt'
                    )
                image.objects.append(LabelledObject(label, encoded(region)))
            data.images.append(image)
    for image_path in images_below(image_folder):
        if not (masks / image_path.relative_to(image_folder)).with_suffix('.png').is_file():
            data.left_out.add(NOT_LEARNT, f"'{image_path}'", 'images without a mask')
    return data


def read_voc_boxes(source: Path, options: ReadOptions) -> LabelledData:
    """Read the boxes of XML files. ``ImageSets/Main/train.txt`` and ``val.txt`` are the split.

    Raises:
        InputError: Boxes are not asked for, a file is damaged, or the images are missing.
    """
    if not options.boxes:
        raise InputError(
            f"'{source}' is of Pascal VOC's boxes, which are no masks: export 'Segmentation mask' or COCO, or learn "
            'masks from boxes with --boxes'
        )
    options.refuse_class_names(source)
    splits = _splits(source / 'ImageSets/Main')
    labels = ToolLabels(source, options)
    for path in labels.files(_FILES):
        # CVAT names images with the folders below Annotations.
        parts = path.with_suffix('').parts
        split = next(filter(None, (splits.get('/'.join(parts[first:])) for first in range(len(parts)))), None)
        if splits and split is None:
            continue
        with labels.left_out.collect('images'):
            root = read_xml(path)
            size = (root.findtext('size/width'), root.findtext('size/height'))
            image = labels.image(root.findtext('filename'), path, size, split=split)
            labels.read_objects(image, enumerate(root.iterfind('object')), f"object {{}} of '{path}'", _box)
    return labels.data(unlabelled=_UNLISTED if splits else 'images without labels')


def _box(index: int, item: ElementTree.Element, size: tuple[int, int]) -> tuple[tuple, list]:
    # Pixels are counted from 1, and the last one belongs to the box.
    x1, y1, x2, y2 = numbers(*(item.findtext(f'bndbox/{side}') for side in ('xmin', 'ymin', 'xmax', 'ymax'))).tolist()
    shape = rectangle(x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1, 0, (0, 0))
    return (text(item.findtext('name'), 'boxes without a name'), index), polygon(shape, size)


def _labelmap(path: Path) -> dict[int, str]:
    """Class names by colour: lines ``name:red,green,blue:parts:actions``."""
    colours = {}
    for line in read_lines(path) if path.is_file() else ():
        if line.startswith('#'):
            continue
        name, *fields = line.split(':')
        try:
            red, green, blue = map(int, fields[0].split(','))
        except (IndexError, ValueError) as error:
            raise InputError(f"'{path}': '{line}' is not name:red,green,blue:parts:actions: correct it") from error
        if name != 'background':
            colours[(red << 16) + (green << 8) + blue] = name
    return colours


def _splits(folder: Path) -> dict[str, str]:
    """Splits by name of the image. CVAT writes default.txt and Train.txt, VOC also trainval.txt and dog_train.txt."""
    found = {path: split_of(path.stem) for path in sorted(folder.glob('*.txt')) if path.stem.isalpha()}
    return {line: split for path, split in found.items() if split for line in read_lines(path)}
