"""What readers of labelling tools' files share: their images, the outlines of their shapes, and what is left out."""

import math
import os.path
import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as mask_api

from ...errors import InputError
from ..annotation_problems import mask_problems
from .labelled_data import LabelledData, LabelledImage, LabelledObject, ReadOptions
from .masks import clipped, encoded, union
from .source_files import NOT_LEARNT, LeftOut, files_below, images_below, split_of_folders, without_split

_CORNERS_OF_AN_ELLIPSE = 64
_LARGEST_COORDINATE = 1e6
_HEAD_BYTES = 8192
# Formats that are not read: suffix, pattern in the first bytes of a file, tool, what to do there.
_UNREAD = (
    ('.json', r'"data_format_version"\s*:\s*"3', 'VGG Image Annotator 3', 'label images in version 2'),
    ('.csv', r'^#?filename,file_size,', "VGG Image Annotator's CSV", "export annotations 'as json'"),
    ('.json', r'^\s*\[\s*\{.*"(rectangle|polygon|brush)labels"', "Label Studio's JSON-MIN", "export 'JSON'"),
    ('.ndjson', r'"data_row"', 'Labelbox', 'convert it to COCO'),
    ('.json', r'"lastAction"\s*:', 'SuperAnnotate', 'convert it to COCO with its SDK'),
    ('.json', r'darwin_json', 'V7 Darwin', "export 'COCO'"),
)  # fmt: skip


class Head(NamedTuple):
    """How the files of a tool begin: their suffix, and a pattern in their first 8 KiB; a dot is any character."""

    suffix: str
    pattern: str

    def files(self, source: Path) -> Iterator[Path]:
        """The file, or the files below a folder, that begin so."""
        for path in [source] if source.is_file() else files_below(source, self.suffix):
            if path.suffix.lower() != self.suffix:
                continue
            try:
                with path.open('rb') as file:
                    head = file.read(_HEAD_BYTES)
            except OSError:
                continue
            if re.search(self.pattern, head.decode('utf-8-sig', 'ignore'), re.DOTALL):
                yield path

    def is_in(self, source: Path) -> bool:
        """Whether there are such files."""
        return any(self.files(source))


def hint(source: Path) -> str | None:
    """What to export instead, if a file or folder is of a known tool whose format is not read, else None."""
    for suffix, pattern, tool, remedy in _UNREAD:
        if Head(suffix, pattern).is_in(source):
            return f"'{source}' is of {tool}, which is not read: {remedy}"
    return None


class WithoutArea(InputError):
    """A shape has no area, as a point has none."""


class ToolLabels:
    """Labels while files of a tool are read: images by path, and what cannot be used."""

    def __init__(self, source: Path, options: ReadOptions) -> None:
        self.source, self.options = source, options
        self.folder = options.image_folder or (source.parent if source.is_file() else source)
        # By the image and the file that labels it.
        self.images: dict[tuple[Path, Path], LabelledImage] = {}
        self.left_out = LeftOut()
        self._absent: str | None = None
        # Of mask pictures, which have no label file, it stays empty.
        self._labelled: set[Path] = set()
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        for path in images_below(self.folder):
            self._by_name[path.name].append(path)

    def files(self, head: Head) -> Iterator[Path]:
        """The files of the source that begin so, without those that the user skips."""
        return filter(self.options.reads, head.files(self.source))

    def has_image(self, name: str) -> bool:
        """Whether an image of this name, without folders, is there."""
        return name in self._by_name

    def image(
        self,
        name: object,
        file: Path,
        size: tuple | None = None,
        habit: str | None = None,
        split: str | None = None,
        folder: str = '',
    ) -> LabelledImage | None:
        """The image that a label file names, or None if it is not there or cannot be used.

        ``name`` is a path, perhaps of another machine: the image that has most of its last parts is taken, and of
        several the one with ``folder`` in its path. ``size`` (width, height) and ``split`` are what the label file
        says; ``habit`` is as in :meth:`LabelledImage.open`.
        """
        parts = PurePosixPath(str(name).replace('\\', '/')).parts
        found = self._by_name.get(parts[-1] if parts else '', [])
        equal = [len(os.path.commonprefix([path.parts[::-1], parts[::-1]])) for path in found]
        most = max(equal, default=0)
        best = [path for path, count in zip(found, equal) if count == most]
        if len(best) > 1:
            wanted = [path for path in best if folder and folder.lower() in map(str.lower, path.parts)]
            if len(wanted) != 1:
                raise InputError(f"'{file}': image '{name}' may be '{best[0]}' or '{best[1]}': rename one of them")
            best = wanted
        if not best:
            self._absent = self._absent or str(name)
            self.left_out.add('images', f"image '{name}' of '{file}'", 'the image does not exist', 'give --images DIR')
            return None
        path = best[0]
        self._labelled.add(path)
        if (path, file) in self.images:
            raise InputError(f"'{path}' is labelled twice in '{file}': delete one of its entries")
        try:
            label_size = None if size is None else (int(size[0]), int(size[1]))
        except (TypeError, ValueError, OverflowError):
            label_size = None
        place = path.relative_to(self.folder)
        split = split or split_of_folders(place)
        with self.left_out.collect('images'):
            image = LabelledImage.open(path, without_split(place, 'images'), label_size, self.options, habit, split)
            image.origin, self.images[path, file] = file, image
            return image
        return None

    @contextmanager
    def shape(self, place: str) -> Iterator[None]:
        """Leave a shape out if the block raises an :class:`InputError`, which says the reason, and go on after it."""
        try:
            yield
        except WithoutArea as error:
            self.left_out.add(NOT_LEARNT, place, str(error))
        except InputError as error:
            self.left_out.add('objects', place, str(error))

    def read_objects(
        self,
        image: LabelledImage | None,
        items: Iterable[tuple[int, Any]],
        place: str,
        read: Callable[[int, Any, tuple[int, int]], tuple[Hashable, list]],
    ) -> None:
        """Read the shapes of an image, if it is there, and add the objects that they make.

        ``items`` are indices and shapes. ``place`` says what a shape is called, and where it is, with ``{}`` for its
        index. ``read`` is called with the index, the shape and the image's width and height. It returns the key of the
        object, whose first item is the class, and its polygons and RLEs. Shapes of one key are one object.
        """
        if image is None:
            return
        parts: dict[Hashable, list] = {}
        for index, item in items:
            with self.shape(place.replace('{}', str(index), 1)):
                key, pieces = read(index, item, image.size)
                parts.setdefault(key, []).extend(pieces)
        self.add_objects(image, parts)

    def add_objects(self, image: LabelledImage, parts: dict[Hashable, list]) -> None:
        """Add an object for each key, from its polygons and RLEs.

        The first item of a key is the class; a third one says whether it is a crowd.
        """
        for (name, _, *is_crowd), pieces in parts.items():  # type: ignore[misc]
            image.objects.append(LabelledObject(name, union(pieces, image.size), any(is_crowd)))

    def data(self, classes: Sequence[str] = (), unlabelled: str = 'images without labels') -> LabelledData:
        """The labels. Of the class names in the tool's order, those without an object are dropped.

        ``unlabelled`` is what to say of images that no label file names.
        """
        if not self.images and self._absent is not None:
            raise InputError(
                f"'{self.folder}' has none of the labelled images, such as '{self._absent}': give --images DIR"
            )
        files = {path for paths in self._by_name.values() for path in paths} if self._labelled else set()
        for path in sorted(files - self._labelled):
            self.left_out.add(NOT_LEARNT, f"'{path}'", unlabelled)
        used = {item.name for image in self.images.values() for item in image.objects}
        names = [name for name in dict.fromkeys(classes) if name in used]
        return LabelledData(names + sorted(used - set(names)), list(self.images.values()), left_out=self.left_out)


def numbers(*values: object) -> np.ndarray:
    """Numbers as an array; none may be beyond every image."""
    try:
        array = np.asarray(values, float)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError('shapes whose coordinates are not numbers') from error
    if not (np.abs(array) <= _LARGEST_COORDINATE).all():
        raise InputError('shapes whose coordinates are beyond every image')
    return array


def polygon(points: object, size: tuple[int, int], scale: Sequence[float] = (1, 1)) -> list[list[float]]:
    """Polygons of a list of corners (x, y), in an image of this width and height; none if they have no area."""
    corners = numbers(points)[0] if isinstance(points, list | np.ndarray) else np.zeros(0)
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3:
        raise InputError('polygons of fewer than 3 points')
    return clipped((corners * scale).round(3).ravel().tolist(), size)


def rectangle(x: float, y: float, width: float, height: float, degrees: float, pivot: tuple) -> np.ndarray:
    """Corners (4, 2) of a rectangle, turned clockwise about ``pivot``, a fraction of its width and height."""
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)]) - np.multiply(pivot, (width, height))
    return corners @ _turn(math.radians(degrees)) + (x, y) + np.multiply(pivot, (width, height))


def ellipse(x: float, y: float, x_radius: float, y_radius: float, radians: float = 0) -> np.ndarray:
    """Corners (N, 2) of an ellipse about (x, y), turned clockwise."""
    angles = np.arange(_CORNERS_OF_AN_ELLIPSE) * (2 * math.pi / _CORNERS_OF_AN_ELLIPSE)
    return np.stack([np.cos(angles) * x_radius, np.sin(angles) * y_radius], axis=1) @ _turn(radians) + (x, y)


def _turn(radians: float) -> np.ndarray:
    """Matrix that turns rows (x, y) clockwise, as y grows downward."""
    return np.array([(math.cos(radians), math.sin(radians)), (-math.sin(radians), math.cos(radians))])


def mapping(value: object) -> dict:
    """A mapping, or an empty one instead of something else."""
    return value if isinstance(value, dict) else {}


def entries(value: object) -> list[dict]:
    """The mappings in a list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def text(value: object, reason: str) -> str:
    """A text that is not empty; of anything else, ``reason`` is the message."""
    if not isinstance(value, str) or not value:
        raise InputError(reason)
    return value


def run_lengths(value: object, size: tuple[int, int]) -> dict:
    """Compressed RLE of a COCO RLE of an image of this width and height."""
    problems = mask_problems(dict(segmentation=value), dict(width=size[0], height=size[1]), decode=True)
    if problems or not isinstance(value, dict):
        raise InputError('masks that are not run lengths of the image')
    runs = value if isinstance(value['counts'], str) else mask_api.frPyObjects(value, *size[::-1])
    return encoded(mask_api.decode(runs))
