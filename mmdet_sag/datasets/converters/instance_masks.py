"""Pictures whose values number the objects, Cityscapes' and plain ones, and a picture for each object."""

import re
from collections import Counter
from pathlib import Path

import numpy as np

from ...errors import InputError
from .labelled_data import LabelledData, LabelledImage, LabelledObject, ReadOptions
from .masks import connected, encoded_values, is_smoothed, read_values
from .source_files import (
    IMAGE_SUFFIXES,
    NOT_LEARNT,
    EntryError,
    LeftOut,
    files_below,
    image_beside,
    images_below,
    split_of,
    split_of_folders,
    without_split,
)
from .tool_labels import ToolLabels

_CITYSCAPES_ENDING = '_instanceIds'
_CITYSCAPES_CLASSES = {
    24: 'person', 25: 'rider', 26: 'car', 27: 'truck', 28: 'bus', 31: 'train', 32: 'motorcycle', 33: 'bicycle',
}  # fmt: skip
_MASK_FOLDERS = ('masks', 'instances', 'labels', 'annotations')
# A value is class * 1000 + number of the object.
_STEP = 1000
# More values than that are numbers of objects.
_MOST_CLASSES = 20
# Reason and remedy.
_SMOOTHED = (
    'is black and white with grey levels between, which are not numbers of objects',
    "make the masks 0 and 255, such as a copy of them with ImageMagick's 'mogrify -threshold 50% *.png'",
)
# Of a picture for each object.
_OBJECT_FOLDERS = ('masks', 'mask', 'pedmasks')
_IMAGE_FOLDERS = ('images', 'image', 'PNGImages', 'JPEGImages')
_NAME_OF_IMAGE = re.compile(r'(.+?)[_-](?=.)(?:mask|obj|object|instance)?[_-]?\d*')


def is_cityscapes(source: Path) -> bool:
    """Whether a folder has pictures of instance ids named as in Cityscapes."""
    return source.is_dir() and any(files_below(source, f'{_CITYSCAPES_ENDING}.png'))


def read_cityscapes(source: Path, options: ReadOptions) -> LabelledData:
    """Read pictures of instance ids in Cityscapes' layout, whose classes ``options`` may name otherwise.

    ``NAME_gtFine_instanceIds.png`` goes with ``NAME_leftImg8bit.png``, in folders ``gtFine`` and ``leftImg8bit`` or
    beside each other. A value of 1000 or more is class * 1000 + number. A smaller value of a class of objects is a
    group, which becomes a crowd. Other values are not objects.
    """
    names = dict(enumerate(options.class_names, 1)) if options.class_names else _CITYSCAPES_CLASSES
    data = LabelledData(list(names.values()), [])
    for path in files_below(source, f'{_CITYSCAPES_ENDING}.png'):
        with data.left_out.collect('images'):
            image_path = _cityscapes_image(path, source, options.image_folder)
            values = read_values(path)
            split = split_of_folders(path.relative_to(source))
            image = LabelledImage.open(image_path, image_path.name, values.shape[::-1], options, split=split)
            for value, mask in encoded_values(values).items():
                number = value // _STEP if value >= _STEP else value
                if number in names:
                    item = LabelledObject(names[number], mask, is_crowd=value < _STEP)
                    image.objects.append(item)
                elif value >= _STEP and options.class_names:
                    raise InputError(
                        f"'{path}': value {value} is of class {number}, but --source-classes names {len(names)}: name "
                        'all classes, and choose with --classes'
                    )
            data.images.append(image)
    return data


def _cityscapes_image(path: Path, source: Path, image_folder: Path | None) -> Path:
    stem = path.stem.removesuffix(_CITYSCAPES_ENDING).removesuffix('_gtFine').removesuffix('_gtCoarse')
    parts = path.parent.relative_to(source).parts
    folders = [path.parent, source.joinpath(*('leftImg8bit' if part.startswith('gt') else part for part in parts))]
    if image_folder:
        folders += [image_folder.joinpath(*parts), image_folder.joinpath(*parts[1:]), image_folder]
    for folder in folders:
        if image := image_beside(folder / f'{stem}_leftImg8bit.png') or image_beside(folder / f'{stem}.png'):
            return image
    raise EntryError(f"'{path}'", 'has no image', "put it beside, or into 'leftImg8bit', or give --images DIR")


def is_instance_masks(source: Path) -> bool:
    """Whether a folder has images in ``images`` and mask pictures in ``masks``."""
    folder = _mask_folder(source)
    return folder is not None and (source / 'images').is_dir() and bool(_mask_files(folder))


def read_instance_masks(source: Path, options: ReadOptions) -> LabelledData:
    """Read folders ``images`` and ``masks`` of one mask picture each, where every value except 0 is an object.

    Classes are folders, ``masks/CLASS/NAME.png``; or, with ``--source-classes``, values class * 1000 + number; or there
    is one class. ``images/train`` and ``images/val`` are the split.
    """
    image_folder, mask_folder = options.image_folder or source / 'images', _mask_folder(source)
    if mask_folder is None:
        raise InputError(f"'{source}' has no folder of masks: put them into '{source / 'masks'}'")
    data = LabelledData([], [])
    groups = _masks_by_image(image_folder, mask_folder, data.left_out)
    folders = sorted({name for masks in groups.values() for name, _ in masks if name})
    if folders:
        options.refuse_class_names(source)
    elif not options.class_names:
        raise InputError(
            f"'{source}' does not name its classes: give --source-classes NAME (several if values are class * 1000 + "
            'number of the object, or classes), or put masks into a folder for each class'
        )
    data.classes += folders or options.class_names or []
    of_classes = _classes_of_values(groups, data.classes) if options.components and not folders else {}
    # The number of masks by value; whether each mask so far has one value, and a mask whose value has several regions.
    counts: Counter = Counter()
    numbered, one_value, scattered = True, True, None
    for image_path, masks in sorted(groups.items()):
        with data.left_out.collect('images'):
            place = image_path.relative_to(image_folder)
            image = None
            for name, path in masks:
                values = read_values(path)
                if image is None:
                    split, size = split_of_folders(place), values.shape[::-1]
                    image = LabelledImage.open(image_path, without_split(place), size, options, split=split)
                if values.shape[::-1] != image.size:
                    raise EntryError(f"mask '{path}'", 'is of another size than its image', 'export it again')
                if is_smoothed(values):
                    raise EntryError(f"mask '{path}'", *_SMOOTHED)
                found = encoded_values(values)
                numbers = list(found)
                counts.update(numbers)
                one_value &= len(numbers) <= 1
                numbered &= numbers == list(range(1, len(numbers) + 1))
                for value in numbers:
                    is_split = options.components or (one_value and not scattered)
                    regions = connected(values == value) if is_split else []
                    if len(regions) > 1:
                        scattered = path
                    label = name or of_classes.get(value) or _class_of_value(value, data.classes, path)
                    objects = regions if options.components else [found[value]]
                    image.objects += [LabelledObject(label, part) for part in objects]
            data.images.append(image)
    if scattered and one_value and options.components is None:
        raise _regions_unclear(scattered)
    for path in images_below(image_folder):
        if path not in groups:
            data.left_out.add(NOT_LEARNT, f"'{path}'", 'images without a mask')
    # Objects are numbered 1, 2, ... in each mask.
    repeated = 2 <= len(counts) <= _MOST_CLASSES and counts.total() >= 2 * len(counts)
    if repeated and not numbered and not folders and max(counts) < _STEP and options.components is None:
        raise InputError(
            f"the masks of '{source}' repeat the values {', '.join(map(str, sorted(counts)))}, which may be classes: "
            'give --components and --source-classes with a name for each value, or --no-components if each value is an '
            'object'
        )
    return data


def _classes_of_values(groups: dict, classes: list[str]) -> dict[int, str]:
    """Classes by value of masks whose values are classes, in their order; none if objects have numbers."""
    if len(classes) < 2:
        return {}
    values = sorted({value for masks in groups.values() for _, path in masks for value in np.unique(read_values(path))})
    values = [int(value) for value in values if value > 0]
    if values and values[0] >= _STEP:
        return {}
    if len(values) != len(classes):
        found = ', '.join(map(str, values[:20]))
        raise InputError(
            f'the masks have {len(values)} values ({found}), but --source-classes names {len(classes)} classes: name '
            'one for each value, in their order'
        )
    return dict(zip(values, classes))


def _mask_folder(source: Path) -> Path | None:
    return next(filter(Path.is_dir, (source / name for name in _MASK_FOLDERS)), None)


def _mask_files(folder: Path) -> list[Path]:
    """PNG files or, to say that they cannot hold numbers, JPEGs."""
    found = {path: path.suffix.lower() for path in images_below(folder)}
    return [path for path in found if found[path] == '.png'] or [path for path in found if found[path][:3] == '.jp']


def _masks_by_image(
    image_folder: Path, mask_folder: Path, left_out: LeftOut
) -> dict[Path, list[tuple[str | None, Path]]]:
    """For each image its masks: the class, if a folder names it, and the path."""
    groups: dict = {}
    for path in _mask_files(mask_folder):
        with left_out.collect('images'):
            image, name = _image_and_class(path.relative_to(mask_folder), image_folder)
            if image is None:
                raise EntryError(f"mask '{path}'", f"has no image of its name in '{image_folder}'", 'put it there')
            groups.setdefault(image, []).append((name, path))
    return groups


def _image_and_class(place: Path, image_folder: Path) -> tuple[Path | None, str | None]:
    if image := image_beside(image_folder / place):
        return image, None
    # masks/CLASS/NAME.png, masks/SPLIT/CLASS/NAME.png and masks/CLASS/SPLIT/NAME.png
    for index, part in enumerate(place.parts[:-1]):
        without = image_folder.joinpath(*place.parts[:index], *place.parts[index + 1 :])
        if split_of(part) is None and (image := image_beside(without)):
            return image, part
    return None, None


def _class_of_value(value: int, classes: list[str], path: Path) -> str:
    if len(classes) == 1:
        return classes[0]
    number = value // _STEP
    if not 1 <= number <= len(classes):
        raise InputError(
            f"'{path}': value {value} is not class * 1000 + number for one of {len(classes)} classes, counted from 1: "
            'name one class, put masks into a folder for each class, or give --components if values are classes'
        )
    return classes[number - 1]


def is_object_masks(source: Path) -> bool:
    """Whether a folder has pictures of objects beside images."""
    images = _Images(source, None)
    return source.is_dir() and any(map(images.of_mask, files_below(source, '.png')))


def read_object_masks(source: Path, options: ReadOptions) -> LabelledData:
    """Read images with a picture for each object, or with one picture whose values are objects; one class.

    ``ID/images/ID.png`` goes with all of ``ID/masks``, ``images/NAME.png`` with ``masks/NAME_1.png`` or
    ``masks/NAME/1.png``, and ``NAME.jpg`` with ``NAME_1.png`` beside it. The only picture of an image, if called
    ``NAME_mask.png``, has a value for each object.
    """
    if len(options.class_names or ()) != 1:
        raise InputError(f"'{source}' does not name its class: give one name with --source-classes NAME")
    (label,) = options.class_names  # type: ignore[misc]
    images = _Images(source, options.image_folder)
    masks: dict[Path, list[Path]] = {}
    for path in files_below(source, '.png'):
        owner = images.of_mask(path)
        if owner:
            masks.setdefault(owner, []).append(path)
    labels = ToolLabels(source, options)
    # Whether each picture so far is of a whole image and has one value, and one whose value has several regions.
    one_value, scattered = True, None
    for image_path, paths in sorted(masks.items()):
        is_map = len(paths) == 1 and paths[0].stem.endswith('mask')
        with labels.left_out.collect('images'):
            image = None
            # An image may also lie beside its masks where another folder is named.
            place = image_path.relative_to(labels.folder if image_path.is_relative_to(labels.folder) else source)
            name, split = without_split(place, *_IMAGE_FOLDERS), split_of_folders(place)
            for path in paths:
                values = read_values(path)
                image = image or LabelledImage.open(image_path, name, values.shape[::-1], options, split=split)
                found = _masks(values, path, image, is_map, labels)
                one_value &= not found or (is_map and len(found) == 1)
                for value, mask in found.items():
                    regions = connected(values == value) if options.components or (is_map and one_value) else []
                    if is_map and len(regions) > 1:
                        scattered = path
                    parts = regions if options.components else [mask]
                    image.objects += [LabelledObject(label, part) for part in parts]
            labels.images[image_path, image_path] = image
    if scattered and one_value and options.components is None:
        raise _regions_unclear(scattered)
    pictures = {path for paths in masks.values() for path in paths}
    for path in images.seen() - masks.keys() - pictures:
        labels.left_out.add(NOT_LEARNT, f"'{path}'", 'images without a mask')
    return labels.data()


def _masks(values: np.ndarray, path: Path, image: LabelledImage, is_map: bool, labels: ToolLabels) -> dict[int, dict]:
    """The RLE of each value of a picture; none of one that cannot be used."""
    found = encoded_values(values)
    if values.shape[::-1] != image.size:
        labels.left_out.add('objects', f"'{path}'", 'masks of another size than their image', 'export it again')
    elif not found:
        labels.left_out.add(NOT_LEARNT, f"'{path}'", 'masks without a pixel')
    elif is_smoothed(values):
        labels.left_out.add('objects', f"mask '{path}'", *_SMOOTHED)
    elif not is_map and len(found) > 1:
        labels.left_out.add('objects', f"'{path}'", 'masks of one object that have several values', 'export it again')
    else:
        return found
    return {}


class _Images:
    """Finds the image that a picture of an object belongs to."""

    def __init__(self, source: Path, image_folder: Path | None) -> None:
        self._source, self._image_folder = source, image_folder
        self._folders: dict[Path, dict[str, Path]] = {}

    def seen(self) -> set[Path]:
        """All images in the folders where images were found."""
        return {path for images in self._folders.values() for path in images.values()}

    def of_mask(self, path: Path) -> Path | None:
        """The image, or None if the picture is not a mask."""
        parts = path.relative_to(self._source).parts[:-1]
        index = next((i for i in reversed(range(len(parts))) if parts[i].lower() in _OBJECT_FOLDERS), None)
        match = _NAME_OF_IMAGE.fullmatch(path.stem)
        if index is None:
            is_beside = match and path.parent.name not in _IMAGE_FOLDERS
            owner = self._in(path.parent).get(match[1]) if is_beside else None
            return None if owner == path else owner
        below = parts[index + 1 :]
        roots = [self._source.joinpath(*parts[:index], name) for name in _IMAGE_FOLDERS]
        for root in [*filter(None, [self._image_folder]), *roots]:
            images = self._in(root.joinpath(*below))
            if path.stem in images:
                return None
            if match and match[1] in images:
                return images[match[1]]
            if below and below[-1] in self._in(root.joinpath(*below[:-1])):
                return self._in(root.joinpath(*below[:-1]))[below[-1]]
            if len(images) == 1:
                return next(iter(images.values()))
        return None

    def _in(self, folder: Path) -> dict[str, Path]:
        if folder not in self._folders:
            found = sorted(folder.iterdir()) if folder.is_dir() else []
            self._folders[folder] = {
                path.stem: path for path in found if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
            }
        return self._folders[folder]


def _regions_unclear(path: Path) -> InputError:
    """What to answer to masks of one value each, of which this one has several regions."""
    return InputError(
        f"each mask has one value, and '{path}' several regions of it: give --components if each region is an object, "
        'or --no-components if the regions of a mask are one'
    )
