"""Pictures whose values number the objects: those of Cityscapes, and plain ones."""

from pathlib import Path

import cv2
import numpy as np

from ...errors import InputError
from .image_header import read_header
from .labelled_data import LabelledData
from .labelled_image import LabelledImage
from .labelled_object import LabelledObject
from .mask_picture import read_values
from .outlines import encoded
from .read_options import ReadOptions
from .source_files import files_below, image_beside, split_of

_CITYSCAPES_ENDING = '_instanceIds'
_CITYSCAPES_CLASSES = {
    24: 'person', 25: 'rider', 26: 'car', 27: 'truck', 28: 'bus', 31: 'train', 32: 'motorcycle', 33: 'bicycle',
}  # fmt: skip
_MASK_FOLDERS = ('masks', 'instances', 'labels', 'annotations')
# A value is class * 1000 + number of the object.
_STEP = 1000


def is_cityscapes(source: Path) -> bool:
    """Whether a folder has pictures of instance ids as Cityscapes names them."""
    return source.is_dir() and any(path.stem.endswith(_CITYSCAPES_ENDING) for path in files_below(source, '.png'))


def is_instance_masks(source: Path) -> bool:
    """Whether a folder has images in ``images`` and pictures of masks in ``masks``."""
    folder = _mask_folder(source) if source.is_dir() else None
    return folder is not None and (source / 'images').is_dir() and any(files_below(folder, '.png'))


def read_cityscapes(source: Path, options: ReadOptions) -> LabelledData:
    """Read pictures of instance ids in Cityscapes's layout.

    ``NAME_gtFine_instanceIds.png`` goes with ``NAME_leftImg8bit.png``, in folders ``gtFine`` and ``leftImg8bit`` or
    beside each other. A value of 1000 or more is class * 1000 + number; a smaller one of a class of objects is a group,
    which becomes a crowd region; other values are no objects.

    Args:
        source: The folder.
        options: Names of classes 1, 2, ..., if they are not those of Cityscapes.

    Raises:
        InputError: An image is missing, or a class has no name.
    """
    names = dict(enumerate(options.class_names, 1)) if options.class_names else _CITYSCAPES_CLASSES
    images = []
    for path in files_below(source, '.png'):
        if not path.stem.endswith(_CITYSCAPES_ENDING):
            continue
        image_path = _cityscapes_image(path, source, options.image_folder)
        values = read_values(path)
        image = _empty_image(image_path, image_path.name, values, options)
        image.split = next(filter(None, map(split_of, path.relative_to(source).parts[:-1])), None)
        for value in np.unique(values).tolist():
            number = value // _STEP if value >= _STEP else value
            if number in names:
                image.objects.append(LabelledObject(names[number], encoded(values == value), is_crowd=value < _STEP))
            elif value >= _STEP and options.class_names:
                raise InputError(
                    f"'{path}': value {value} is of class {number}, but --source-classes names {len(names)}: name all, "
                    'and choose with --classes'
                )
        images.append(image)
    return LabelledData(list(names.values()), images)


def read_instance_masks(source: Path, options: ReadOptions) -> LabelledData:
    """Read images with a picture of masks each, where every value but 0 is an object.

    Where classes lie: in folders ``masks/CLASS/NAME.png``; or in values of class * 1000 + number, with
    ``--source-classes``; else there is one class. ``images/train`` and ``images/val`` are the split.

    Args:
        source: Folder with ``images`` and ``masks``.
        options: Class names; whether each connected region is an object of its own.

    Raises:
        InputError: A mask is missing, of another size, or may be of one class instead of one object.
    """
    image_folder, mask_folder = options.image_folder or source / 'images', _mask_folder(source)
    if mask_folder is None:
        raise InputError(f"'{source}' has no folder of masks: put them into '{source / 'masks'}'")
    groups = _mask_files(image_folder, mask_folder)
    in_folders = any(name for files in groups.values() for name, _ in files)
    if in_folders:
        options.refuse_class_names(source)
        names = sorted({name for files in groups.values() for name, _ in files})
    elif options.class_names:
        names = options.class_names
    else:
        raise InputError(
            f"'{source}' says nowhere what its classes are called: give --source-classes NAME (several if values are "
            'class * 1000 + number of the object), or put masks into a folder for each class'
        )
    images = []
    # Of the masks seen so far, whether all have one value, and one whose value has several regions.
    one_value, scattered = True, None
    for image_path, files in sorted(groups.items()):
        place = image_path.relative_to(image_folder)
        image = None
        for name, path in files:
            values = read_values(path)
            image = image or _empty_image(image_path, _without_split(place), values, options)
            if values.shape[::-1] != image.size:
                raise InputError(f"mask '{path}' is of another size than its image: export it again")
            numbers = np.unique(values[values > 0]).tolist()
            one_value &= len(numbers) <= 1
            for value in numbers:
                region = values == value
                regions = _connected(region) if options.components or (one_value and not scattered) else [region]
                if len(regions) > 1:
                    scattered = path
                label = name or _of_value(value, names, path)
                parts = regions if options.components else [region]
                image.objects += [LabelledObject(label, encoded(part)) for part in parts]
        image.split = next(filter(None, map(split_of, place.parts[:-1])), None)
        images.append(image)
    if scattered and one_value and options.components is None:
        raise InputError(
            f"all masks have one value, and '{scattered}' several regions of it: say --components if each region is an "
            'object, or --no-components if the regions of a mask are one'
        )
    return LabelledData(list(names), images)


def _mask_folder(source: Path) -> Path | None:
    return next((source / name for name in _MASK_FOLDERS if (source / name).is_dir()), None)


def _mask_files(image_folder: Path, mask_folder: Path) -> dict[Path, list[tuple[str | None, Path]]]:
    """Images with the class, where a folder says it, and the path of each of their masks."""
    groups: dict = {}
    for path in files_below(mask_folder, '.png'):
        image, name = _image_of_mask(path.relative_to(mask_folder), image_folder)
        if image is None:
            raise InputError(f"mask '{path}' has no image of its name in '{image_folder}': put it there, or remove it")
        groups.setdefault(image, []).append((name, path))
    return groups


def _image_of_mask(place: Path, image_folder: Path) -> tuple[Path | None, str | None]:
    image = image_beside(image_folder / place)
    if image:
        return image, None
    # masks/CLASS/NAME.png, masks/SPLIT/CLASS/NAME.png and masks/CLASS/SPLIT/NAME.png
    for index, part in enumerate(place.parts[:-1]):
        if split_of(part) is None:
            image = image_beside(image_folder.joinpath(*place.parts[:index], *place.parts[index + 1 :]))
            if image:
                return image, part
    return None, None


def _without_split(place: Path) -> str:
    return Path(*[part for part in place.parts[:-1] if split_of(part) is None], place.name).as_posix()


def _empty_image(path: Path, name: str, values: np.ndarray, options: ReadOptions) -> LabelledImage:
    header = read_header(path)
    image = LabelledImage(path, name, header)
    image.drops_orientation = header.labels_are_of_stored(path, values.shape[::-1], options.exif)
    return image


def _connected(region: np.ndarray) -> list[np.ndarray]:
    count, numbers = cv2.connectedComponents(region.astype(np.uint8), connectivity=8)
    return [numbers == number for number in range(1, count)]


def _of_value(value: int, names: list[str], path: Path) -> str:
    if len(names) == 1:
        return names[0]
    number = value // _STEP
    if not 1 <= number <= len(names):
        raise InputError(
            f"'{path}': value {value} is not class * 1000 + number for one of {len(names)} classes, counted from 1: "
            'name one class, or put masks into a folder for each class'
        )
    return names[number - 1]


def _cityscapes_image(path: Path, source: Path, image_folder: Path | None) -> Path:
    stem = path.stem[: -len(_CITYSCAPES_ENDING)]
    for ending in ('_gtFine', '_gtCoarse'):
        stem = stem[: -len(ending)] if stem.endswith(ending) else stem
    parts = path.parent.relative_to(source).parts
    folders = [path.parent, source.joinpath(*('leftImg8bit' if part.startswith('gt') else part for part in parts))]
    if image_folder:
        folders += [image_folder.joinpath(*parts), image_folder.joinpath(*parts[1:]), image_folder]
    for folder in folders:
        for name in (f'{stem}_leftImg8bit.png', f'{stem}.png'):
            found = image_beside(folder / name)
            if found:
                return found
    raise InputError(f"'{path}' has no image: put it beside, or into 'leftImg8bit', or give --images DIR")
