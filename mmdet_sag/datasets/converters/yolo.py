"""YOLO segmentation: a text file for each image, with a line of fractions of its size for each object."""

import math
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

from ...errors import InputError
from ..coco_file import has_yolo_labels
from .labelled_data import LabelledData, LabelledImage, LabelledObject, ReadOptions
from .masks import clipped
from .source_files import (
    IMAGE_SUFFIXES,
    NOT_LEARNT,
    EntryError,
    LeftOut,
    files_below,
    image_beside,
    images_below,
    located,
    read_if_possible,
    read_lines,
    read_yaml,
    split_of,
    split_of_folders,
    without_split,
)
from .tool_labels import rectangle

# Fractions a little beyond the border are rounding; larger numbers are pixels.
_LARGEST_FRACTION = 1.5
_CONFIG_FILES = ('data.yaml', 'data.yml', 'dataset.yaml')
_NAME_FILES = ('classes.txt', 'obj.names', 'labels.txt')


def is_yolo(source: Path) -> bool:
    """Whether a path is a ``data.yaml`` of YOLO, or a folder that has one, or text files of labels."""
    if source.is_file():
        return source.suffix.lower() in ('.yaml', '.yml')
    return _config_file(source) is not None or any(map(has_yolo_labels, files_below(source, '.txt')))


def read_yolo(source: Path, options: ReadOptions) -> LabelledData:
    """Read labels of YOLO segmentation in the layouts of Ultralytics.

    The source is a ``data.yaml``, its folder, or a folder of images and text files: beside each other, or below folders
    ``images`` and ``labels``. Folders ``train`` and ``val`` are the split. With ``options.image_folder``, a label file
    has the path below the source, or its ``labels``, that its image has below that folder.
    """
    config_file = source if source.is_file() else _config_file(source)
    root = source.parent if source.is_file() else source
    config = read_yaml(config_file) if config_file else {}
    classes = options.class_names or _names(config, config_file) or _names_beside(root)
    if not classes:
        raise InputError(
            f"'{source}' does not name its classes: give --source-classes NAME NAME ..., or write a data.yaml"
        )
    found = list(_listed_images(config, config_file)) if config_file and not options.image_folder else []
    if not found:
        folder = options.image_folder or root
        places = [path.relative_to(folder) for path in images_below(folder)]
        found = [(folder / place, place, split_of_folders(place)) for place in places]
    if not found:
        raise InputError(f"'{source}' has no images: give the folder that holds images and labels, or its data.yaml")

    data = LabelledData(list(classes), [])
    label_files = set()
    without_labels = 0
    for path, place, split in found:
        label_file = _label_file(path, [root / place, root / 'labels' / place] if options.image_folder else [])
        if label_file:
            label_files.add(label_file)
        else:
            without_labels += 1
        with data.left_out.collect('images'):
            image = LabelledImage.open(path, without_split(place, 'images'), None, options, 'turned', split)
            if label_file:
                image.objects = list(_objects(label_file, classes, image.size, data.left_out, options.boxes))
            data.images.append(image)
    if not label_files:
        raise InputError(
            f"'{source}' has {len(found)} images, but no label file for any: put NAME.txt beside NAME.jpg, or into "
            "'labels' beside 'images'"
        )
    if without_labels:
        data.notes.append(f'{without_labels} images without a label file: taken as images without objects')
    for path in files_below(root, '.txt'):
        if path in label_files or path.name in _NAME_FILES or not has_yolo_labels(path):
            continue
        image_path = _image_of(path)
        if image_path and image_path.suffix.lower() in IMAGE_SUFFIXES:
            data.left_out.add(NOT_LEARNT, f"'{path}'", 'label files of images that are not listed')
            continue
        with data.left_out.collect('images'):
            if image_path:
                raise EntryError(f"image '{image_path}'", 'training cannot read HEIC', 'save it as JPEG or PNG')
            raise EntryError(f"'{path}'", 'a label file without an image', 'put the image there')
    return data


def _config_file(folder: Path) -> Path | None:
    for path in (folder / name for name in _CONFIG_FILES):
        if path.is_file() and 'names' in read_yaml(path):
            return path
    others = filter(Path.is_file, sorted(folder.glob('*.y*ml')))
    return next((path for path in others if 'names' in read_if_possible(read_yaml, path)), None)


def _names(config: dict, path: Path | None) -> list[str]:
    names = config.get('names') or []
    if isinstance(names, dict):
        if {str(key) for key in names} != {str(number) for number in range(len(names))}:
            raise InputError(f"'{path}': names are not numbered from 0 without a gap: number them 0, 1, 2, ...")
        names = [names[key] for key in sorted(names, key=int)]
    if not isinstance(names, list):
        raise InputError(f"'{path}': names is a {type(names).__name__}: write a list of class names")
    return [str(name) for name in names]


def _names_beside(root: Path) -> list[str]:
    paths = (folder / name for folder in (root, root / 'labels') for name in _NAME_FILES)
    return next((read_lines(path) for path in paths if path.is_file()), [])


def _listed_images(config: dict, config_file: Path) -> Iterator[tuple[Path, Path, str]]:
    """Images of the splits that data.yaml names: path, path in the split, split."""
    # Files that were moved keep their old "path", and Roboflow writes "../train/images" for "train/images".
    folders = [config_file.parent / str(config.get('path') or ''), config_file.parent]
    for key, split in (('train', 'train'), ('val', 'val'), ('valid', 'val'), ('test', 'test')):
        entries = config.get(key) or []
        for entry in entries if isinstance(entries, list) else [entries]:
            # Every part has a folder "images".
            least = 1 if split_of(PureWindowsPath(str(entry)).name) else 2
            path = located(str(entry), folders, least=least)
            # A test part may be named without having been exported.
            if path is None and split == 'test':
                continue
            if path is None:
                raise InputError(
                    f"'{config_file}': {key} is '{entry}', which does not exist: correct {key} or path in the file"
                )
            if path.is_dir():
                yield from ((image, image.relative_to(path), split) for image in images_below(path))
                continue
            for line in read_lines(path):
                # CVAT writes "data/images/train/1.jpg" for "images/train/1.jpg".
                image = located(line, [path.parent, *folders], moved=True)
                # Of one that is missing, opening says so.
                yield image or path.parent / line, Path((image or Path(line)).name), split


def _image_of(label_file: Path) -> Path | None:
    """The image of a label file, beside it or in ``images`` beside ``labels``."""
    above = next((folder for folder in label_file.parents if folder.name == 'labels'), None)
    inside = above and image_beside(above.with_name('images') / label_file.relative_to(above))
    return inside or image_beside(label_file)


def _label_file(image: Path, places: list[Path]) -> Path | None:
    candidates = [*places, image]
    if 'images' in image.parts[:-1]:
        # The last of these folders has labels beside it.
        above = next(folder for folder in image.parents if folder.name == 'images')
        candidates.insert(0, above.with_name('labels') / image.relative_to(above))
    return next(filter(Path.is_file, (path.with_suffix('.txt') for path in candidates)), None)


def _objects(
    path: Path, classes: list[str], size: tuple[int, int], left_out: LeftOut, boxes: bool
) -> Iterator[LabelledObject]:
    for number, line in enumerate(read_lines(path), 1):
        with left_out.collect('objects'):
            yield _object(line, f"'{path}', line {number}", classes, size, boxes)


def _object(line: str, place: str, classes: list[str], size: tuple[int, int], boxes: bool) -> LabelledObject:
    try:
        class_number, *fractions = map(float, line.split())
    except ValueError as error:
        raise EntryError(place, 'has a word that is not a number', 'write CLASS X1 Y1 X2 Y2 ...') from error
    count = len(fractions)
    if count == 4 and boxes:
        x, y, width, height = fractions
        fractions, count = rectangle(x - width / 2, y - height / 2, width, height, 0, (0, 0)).ravel(), 8
    if count == 4:
        remedy = 'export the labels as segmentation (polygons), or learn masks from boxes with --boxes'
        raise EntryError(place, 'is a box', remedy)
    if count < 6 or count % 2:
        raise EntryError(place, f'has {count} coordinates', 'a polygon has three or more pairs of x and y')
    if not all(map(math.isfinite, [class_number, *fractions])):
        raise EntryError(place, 'has a number that is NaN or infinite', 'correct or remove the line')
    if max(map(abs, fractions)) > _LARGEST_FRACTION:
        remedy = 'divide x by its width and y by its height'
        raise EntryError(place, 'is not in fractions of the image', remedy, f'{max(fractions, key=abs):g}')
    if not class_number.is_integer() or not 0 <= class_number < len(classes):
        known = f'there are {len(classes)} ({", ".join(classes[:5])}), counted from 0'
        reason = f'class {class_number:g} has no name'
        raise EntryError(place, reason, f'{known}: add its name, or correct the line')
    pixels = [round(value * size[i % 2], 3) for i, value in enumerate(fractions)]
    return LabelledObject(classes[int(class_number)], clipped(pixels, size))
