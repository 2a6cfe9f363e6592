"""Pascal VOC masks: a picture of objects and a picture of classes for each image."""

from pathlib import Path

import numpy as np

from ...errors import InputError
from .image_header import read_header
from .labelled_data import LabelledData
from .labelled_image import LabelledImage
from .labelled_object import LabelledObject
from .mask_picture import read_colours, read_values
from .outlines import encoded
from .read_options import ReadOptions
from .source_files import files_below, image_beside, read_lines, split_of

_CLASSES = (
    'aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat', 'chair', 'cow', 'diningtable', 'dog',
    'horse', 'motorbike', 'person', 'pottedplant', 'sheep', 'sofa', 'train', 'tvmonitor',
)  # fmt: skip
# The border between objects, as value and as colour.
_VOID, _VOID_COLOUR = 255, (224 << 16) + (224 << 8) + 192


def is_pascal_voc(source: Path) -> bool:
    """Whether a folder is laid out as Pascal VOC's segmentation data."""
    return source.is_dir() and (source / 'SegmentationObject').is_dir()


def read_pascal_voc(source: Path, options: ReadOptions) -> LabelledData:
    """Read a folder with ``JPEGImages``, ``SegmentationObject`` and ``SegmentationClass``.

    Values of the pictures, or colours as CVAT writes them, tell objects and classes apart; the border is nobody's.
    ``ImageSets/Segmentation/train.txt`` and ``val.txt`` are the split.

    Args:
        source: The folder.
        options: Class names, from number 1 on, where there is no ``labelmap.txt`` and they are not Pascal VOC's own.

    Raises:
        InputError: A picture is missing, of another size, or has a class without a name.
    """
    colours = _labelmap(source / 'labelmap.txt')
    names = options.class_names or (list(dict.fromkeys(colours.values())) if colours else list(_CLASSES))
    splits = _splits(source)
    images = []
    image_folder = options.image_folder or source / 'JPEGImages'
    for path in files_below(source / 'SegmentationObject', '.png'):
        place = path.relative_to(source / 'SegmentationObject')
        image_path = image_beside(image_folder / place)
        class_path = source / 'SegmentationClass' / place
        if image_path is None or not class_path.is_file():
            what = f"image in '{image_folder}'" if image_path is None else "picture in 'SegmentationClass'"
            raise InputError(f"'{path}' has no {what}: put it there, or give --images DIR")
        stem = place.with_suffix('').as_posix()
        if splits and stem not in splits:
            continue
        images.append(_labelled_image(image_path, path, class_path, names, colours, options))
        images[-1].name = place.with_suffix(image_path.suffix).as_posix()
        images[-1].split = splits.get(stem)
    return LabelledData(list(names), images)


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


def _splits(source: Path) -> dict[str, str]:
    splits = {}
    folder = source / 'ImageSets/Segmentation'
    for path in sorted(folder.glob('*.txt')) if folder.is_dir() else ():
        # CVAT writes default.txt, VOC also trainval.txt.
        if path.stem in ('train', 'val', 'test'):
            splits.update({line.split()[0]: split_of(path.stem) for line in read_lines(path)})
    return splits


def _labelled_image(
    image_path: Path, object_path: Path, class_path: Path, names: list, colours: dict, options: ReadOptions
) -> LabelledImage:
    objects = read_values(object_path)
    classes = read_colours(class_path) if colours else read_values(class_path)
    if objects.shape != classes.shape:
        raise InputError(f"'{object_path}' and '{class_path}' are of different sizes: export them again")
    header = read_header(image_path)
    image = LabelledImage(image_path, image_path.name, header)
    image.drops_orientation = header.labels_are_of_stored(image_path, objects.shape[::-1], options.exif)
    for number in np.unique(objects).tolist():
        if number in (0, _VOID, _VOID_COLOUR):
            continue
        region = objects == number
        name = _class_name(classes[region], names, colours)
        if name is None:
            raise InputError(
                f"'{class_path}': object {number} of '{object_path.name}' lies on a class without a name: give "
                '--source-classes with the names of classes 1, 2, ..., or a labelmap.txt'
            )
        image.objects.append(LabelledObject(name, encoded(region)))
    return image


def _class_name(values: np.ndarray, names: list, colours: dict) -> str | None:
    """The class of most pixels of an object."""
    numbers, counts = np.unique(values, return_counts=True)
    number = int(numbers[counts.argmax()])
    if colours:
        return colours.get(number)
    return names[number - 1] if 0 < number <= len(names) else None
