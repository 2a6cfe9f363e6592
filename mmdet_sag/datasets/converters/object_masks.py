"""A picture for each object, or one per image named NAME_mask."""

import re
from pathlib import Path

import numpy as np

from ...errors import InputError
from .image_header import IMAGE_SUFFIXES
from .instance_masks import regions_unclear
from .labelled_data import LabelledData, LabelledImage, LabelledObject, ReadOptions
from .left_out import NOT_LEARNT
from .masks import connected, encoded, read_values
from .source_files import files_below, split_of_folders, without_split
from .tool_labels import ToolLabels

_MASK_FOLDERS = ('masks', 'mask', 'pedmasks')
_IMAGE_FOLDERS = ('images', 'image', 'PNGImages', 'JPEGImages')
_NAME_OF_IMAGE = re.compile(r'(.+?)[_-](?=.)(?:mask|obj|object|instance)?[_-]?\d*')


def is_object_masks(source: Path) -> bool:
    """Whether a folder has pictures of objects beside images."""
    images = _Images(source, None)
    return source.is_dir() and any(map(images.of_mask, files_below(source, '.png')))


def read_object_masks(source: Path, options: ReadOptions) -> LabelledData:
    """Read images with a picture for each object, or with one picture whose values are objects.

    ``ID/images/ID.png`` goes with all of ``ID/masks``, ``images/NAME.png`` with ``masks/NAME_1.png`` or
    ``masks/NAME/1.png``, and ``NAME.jpg`` with ``NAME_1.png`` beside it. The only picture of an image, if called
    ``NAME_mask.png``, has a value for each object.

    Args:
        source: The folder.
        options: The name of the class; whether each connected region is an object.

    Raises:
        InputError: The class has no name, or a picture cannot be read.
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
            for path in paths:
                values = read_values(path)
                image = image or _opened(image_path, values.shape[::-1], labels)
                found = _masks(values, path, image, is_map, labels)
                one_value &= not found or (is_map and len(found) == 1)
                for mask in found:
                    regions = connected(mask) if is_map or options.components else [mask]
                    if is_map and len(regions) > 1:
                        scattered = path
                    parts = regions if options.components else [mask]
                    image.objects += [LabelledObject(label, encoded(part)) for part in parts]
            labels.images[image_path] = image
    if scattered and one_value and options.components is None:
        raise regions_unclear(scattered)
    pictures = {path for paths in masks.values() for path in paths}
    for path in images.seen() - masks.keys() - pictures:
        labels.left_out.add(NOT_LEARNT, f"'{path}'", 'images without a mask')
    return labels.data()


def _opened(path: Path, size: tuple, labels: ToolLabels) -> LabelledImage:
    place = path.relative_to(labels.folder)
    name, split = without_split(place, *_IMAGE_FOLDERS), split_of_folders(place)
    return LabelledImage.open(path, name, size, labels.options, split=split)


def _masks(values: np.ndarray, path: Path, image: LabelledImage, is_map: bool, labels: ToolLabels) -> list[np.ndarray]:
    """The mask (H, W), bool, of each value of a picture; none of one that cannot be used."""
    numbers = np.unique(values[values > 0])
    if values.shape[::-1] != image.size:
        labels.left_out.add('objects', f"'{path}'", 'masks of another size than their image', 'export it again')
    elif not len(numbers):
        labels.left_out.add(NOT_LEARNT, f"'{path}'", 'masks without a pixel')
    elif not is_map and len(numbers) > 1:
        labels.left_out.add('objects', f"'{path}'", 'masks of one object that have several values', 'export it again')
    else:
        return [values == number for number in numbers]
    return []


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
        index = next((i for i in reversed(range(len(parts))) if parts[i].lower() in _MASK_FOLDERS), None)
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
