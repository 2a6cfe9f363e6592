"""YOLO segmentation labels: a text file for each image, a line of fractions of its size for each object."""

import math
from collections.abc import Iterator
from pathlib import Path

from ...errors import InputError
from .image_header import read_header
from .labelled_data import LabelledData
from .labelled_image import LabelledImage
from .labelled_object import LabelledObject
from .outlines import clipped
from .read_options import ReadOptions
from .source_files import files_below, images_below, read_lines, read_yaml, split_of

# Fractions a little beyond the border are rounding; far beyond it they are pixels.
_LARGEST_FRACTION = 1.5
_CONFIG_FILES = ('data.yaml', 'data.yml', 'dataset.yaml')
_NAME_FILES = ('classes.txt', 'obj.names', 'labels.txt')


def is_yolo(source: Path) -> bool:
    """Whether a path is a ``data.yaml`` of YOLO, or a folder with one, or one with text files of labels."""
    if source.is_file():
        return source.suffix.lower() in ('.yaml', '.yml')
    return _yaml_of(source) is not None or any(map(_looks_like_labels, files_below(source, '.txt')))


def read_yolo(source: Path, options: ReadOptions) -> LabelledData:
    """Read labels of YOLO segmentation, as Ultralytics lays them out.

    Args:
        source: ``data.yaml``, the folder that holds it, or a folder of images and text files: beside each other, or
            below folders ``images`` and ``labels``. ``train`` and ``val`` folders are the split.
        options: Class names are needed where there is neither ``data.yaml`` nor ``classes.txt``. Labels have the paths
            below the source, or its ``labels``, that images have below ``image_folder``.

    Raises:
        InputError: A line is no outline, or a class has no name.
    """
    config_file = source if source.is_file() else _yaml_of(source)
    root = source.parent if source.is_file() else source
    config = read_yaml(config_file) if config_file else {}
    names = options.class_names or _names(config, config_file) or _names_beside(root)
    if not names:
        raise InputError(
            f"'{source}' says nowhere what its classes are called: give --source-classes NAME NAME ..., or a data.yaml"
        )
    elsewhere = options.image_folder
    found = list(_listed_images(config, config_file)) if config_file and not elsewhere else []
    if not found:
        folder = elsewhere or root
        found = [(path, path.relative_to(folder), _split_in(path.relative_to(folder))) for path in images_below(folder)]
    if not found:
        raise InputError(f"'{source}' has no images: give the folder that holds images and labels, or its data.yaml")

    images, without_labels = [], 0
    for path, place, split in found:
        header = read_header(path)
        image = LabelledImage(path, _short(place).as_posix(), header, split=split)
        image.drops_orientation = header.labels_are_of_stored(path, None, options.exif, habit='turned')
        label_file = _label_file(path, [root / place, root / 'labels' / place] if elsewhere else [])
        if label_file is None:
            without_labels += 1
        else:
            image.objects = list(_objects(label_file, names, image.size))
        images.append(image)
    if without_labels == len(images):
        raise InputError(
            f"'{source}' has {len(images)} images, but no label file for any: put NAME.txt beside NAME.jpg, or into "
            "'labels' beside 'images'"
        )
    notes = [f'{without_labels} images without a label file: taken as images without objects'] if without_labels else []
    return LabelledData(list(names), images, notes)


def _yaml_of(folder: Path) -> Path | None:
    for path in (folder / name for name in _CONFIG_FILES):
        if path.is_file() and 'names' in read_yaml(path):
            return path
    return next(filter(_names_classes, sorted(folder.glob('*.y*ml'))), None)


def _names_classes(path: Path) -> bool:
    # A file of another name may be of any program.
    try:
        return path.is_file() and 'names' in read_yaml(path)
    except InputError:
        return False


def _looks_like_labels(path: Path) -> bool:
    with open(path, encoding='utf-8', errors='replace') as file:
        parts = file.readline().split()
    try:
        return len(parts) >= 5 and all(math.isfinite(float(part)) for part in parts)
    except ValueError:
        return False


def _names(config: dict, path: Path | None) -> list[str]:
    names = config.get('names') or []
    if isinstance(names, dict):
        numbers = {str(key) for key in names}
        if numbers != {str(number) for number in range(len(names))}:
            raise InputError(f"'{path}': names are not numbered from 0 without a gap: number them 0, 1, 2, ...")
        names = [names[key] for key in sorted(names, key=int)]
    if not isinstance(names, list):
        raise InputError(f"'{path}': names is a {type(names).__name__}: write a list of class names")
    return [str(name) for name in names]


def _names_beside(root: Path) -> list[str]:
    for folder in (root, root / 'labels'):
        for name in _NAME_FILES:
            if (folder / name).is_file():
                return read_lines(folder / name)
    return []


def _listed_images(config: dict, config_file: Path) -> Iterator[tuple[Path, Path, str]]:
    """Images of the splits that data.yaml names: path, place in the split, split."""
    for key, split in (('train', 'train'), ('val', 'val'), ('valid', 'val'), ('test', 'test')):
        entries = config.get(key) or []
        # A test part that was never exported is no mistake.
        for entry in entries if isinstance(entries, list) else [entries]:
            path = _resolved(str(entry), config, config_file)
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
                image = Path(line) if Path(line).is_absolute() else path.parent / line
                if not image.is_file():
                    raise InputError(f"'{path}' lists '{line}', which does not exist: correct the list")
                yield image, Path(image.name), split


def _resolved(entry: str, config: dict, config_file: Path) -> Path | None:
    folder = config_file.parent
    base = Path(str(config.get('path') or ''))
    # Files that were moved keep their old "path", and Roboflow writes "../train/images" for "train/images".
    bare = entry
    while bare.startswith('../'):
        bare = bare[3:]
    for path in (folder / base / entry, folder / entry, folder / bare):
        if path.exists():
            return path
    return None


def _split_in(place: Path) -> str | None:
    for part in place.parts[:-1]:
        split = split_of(part)
        if split:
            return split
    return None


def _short(place: Path) -> Path:
    """A place without the folders that only say what it is."""
    kept = [part for part in place.parts[:-1] if part != 'images' and split_of(part) is None]
    return Path(*kept, place.name)


def _label_file(image: Path, places: list[Path]) -> Path | None:
    candidates = [path.with_suffix('.txt') for path in (*places, image)]
    parts = list(image.parts)
    if 'images' in parts[:-1]:
        last = len(parts) - 2 - parts[:-1][::-1].index('images')
        candidates.insert(0, Path(*parts[:last], 'labels', *parts[last + 1 :]).with_suffix('.txt'))
    return next((path for path in candidates if path.is_file()), None)


def _objects(path: Path, names: list[str], size: tuple[int, int]) -> Iterator[LabelledObject]:
    for number, line in enumerate(read_lines(path), 1):
        place = f"'{path}', line {number}"
        try:
            class_number, *fractions = map(float, line.split())
        except ValueError as error:
            raise InputError(f'{place}: is not numbers alone: write CLASS X1 Y1 X2 Y2 ..., or leave it out') from error
        if len(fractions) == 4:
            raise InputError(
                f'{place}: is a box, not an outline, and masks cannot be learnt from boxes: export the labels as '
                'segmentation (polygons)'
            )
        if len(fractions) < 6 or len(fractions) % 2:
            raise InputError(f'{place}: has {len(fractions)} coordinates: an outline is three or more pairs of x and y')
        if not all(map(math.isfinite, [class_number, *fractions])):
            raise InputError(f'{place}: holds a number that is none (NaN, infinite): correct or remove the line')
        if max(map(abs, fractions)) > _LARGEST_FRACTION:
            raise InputError(
                f'{place}: {max(fractions, key=abs):g} is no fraction of the image: divide x by its width and y by its '
                'height'
            )
        if not class_number.is_integer() or not 0 <= class_number < len(names):
            raise InputError(
                f'{place}: class {class_number:g} has no name, there are {len(names)} ({", ".join(names[:5])}), counted'
                ' from 0: add its name, or correct the line'
            )
        pixels = [round(value * size[i % 2], 3) for i, value in enumerate(fractions)]
        yield LabelledObject(names[int(class_number)], clipped(pixels, size))
