"""Labels on their way from the files of a source to COCO's format, and how to read them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import InputError
from .source_files import EntryError, LeftOut, read_header


@dataclass(frozen=True)
class ReadOptions:
    """What the user says about a source because its files do not.

    Args:
        class_names: Class names by their number in the source.
        image_folder: Folder of the images, if they are not beside the labels.
        exif: Whether labels belong to images as EXIF orientation turns them (``'turned'``) or as they are stored
            (``'stored'``); None: decided by the sizes, or by what the labelling tool does.
        components: Whether each connected region of a mask is an object; None: decided by the values.
        crowds_are_objects: Whether a region that COCO's format marks as a crowd is one object.
        skip: Annotation files not to read.
        class_attribute: Which of several attributes of a region is its class.
        boxes: Whether objects are kept that have a box and no outline.
    """

    class_names: list[str] | None = None
    image_folder: Path | None = None
    exif: str | None = None
    components: bool | None = None
    crowds_are_objects: bool = False
    skip: Sequence[Path] = ()
    class_attribute: str | None = None
    boxes: bool = False

    def reads(self, path: Path) -> bool:
        """Whether an annotation file is to be read."""
        return all(path.resolve() != skipped.resolve() for skipped in self.skip)

    def refuse_class_names(self, source: Path) -> None:
        """Raise an :class:`InputError` if class names are given for a source that names its classes itself."""
        if self.class_names:
            raise InputError(f"--source-classes: '{source}' names its classes: change the names with --rename")


@dataclass(frozen=True)
class LabelledObject:
    """An object of an image.

    ``segmentation`` is a list of polygons, each ``[x1, y1, x2, y2, ...]`` in pixels, or a compressed RLE. A reader
    gives a box its corners, which :class:`LabelConversion` makes an empty list. ``bbox`` (x, y, width, height) and
    ``area``, in pixels, are the mask's if they are None. A crowd is a region of many objects.
    """

    name: str
    segmentation: list | dict
    is_crowd: bool = False
    bbox: list | None = None
    area: float | None = None


@dataclass
class LabelledImage:
    """An image and its objects.

    Args:
        path: Image file; if ``content`` is given, where it would be.
        name: Path below the folder of its split, with ``/``.
        size: Width and height of the image that was labelled, in pixels.
        objects: Its objects, in pixels of the image that was labelled.
        split: ``'train'``, ``'val'`` or ``'test'``; None: not in the source.
        drops_orientation: Whether the labels belong to the image as stored, without its EXIF orientation.
        content: Bytes of the image file, if a label file holds them.
        origin: The file that labels it, if that is known.
    """

    path: Path
    name: str
    size: tuple[int, int]
    objects: list[LabelledObject] = field(default_factory=list)
    split: str | None = None
    drops_orientation: bool = False
    content: bytes | None = None
    origin: Path | None = None

    @classmethod
    def open(
        cls,
        path: Path,
        name: str,
        label_size: tuple[int, int] | None,
        options: ReadOptions,
        habit: str | None = None,
        split: str | None = None,
        content: bytes | None = None,
    ) -> 'LabelledImage':
        """Read the header of an image file, and decide whether labels belong to the turned or to the stored image.

        ``label_size`` is the width and height that the labels name, or None. If sizes do not decide, ``options.exif``
        does, or the ``habit`` of the labelling tool, ``'turned'`` or ``'stored'``, if that is known.

        Raises:
            EntryError: The image cannot be used, or the labels are of another size.
            InputError: Nothing decides.
        """
        header = read_header(path, content)
        sizes = dict(turned=header.seen, stored=header.stored)
        views = [view for view, size in sizes.items() if label_size in (None, size)]
        if not views:
            seen, labelled = ('x'.join(map(str, size)) for size in (header.seen, label_size))
            raise EntryError(
                f"image '{path}'",
                'has another size than its labels',
                'replace it by the image that was labelled',
                f'{seen} pixels, but its labels are of {labelled}',
            )
        view = views[0] if len(views) == 1 or header.orientation == 1 else options.exif or habit
        if view is None:
            raise InputError(
                f"'{path}' has EXIF orientation {header.orientation}, and its labels may belong to the turned or to "
                'the stored image: choose with --exif turned or --exif stored'
            )
        return cls(path, name, sizes[view], split=split, drops_orientation=view == 'stored', content=content)


@dataclass
class LabelledData:
    """Labels of a source: class names in its order, images, and what cannot be used.

    ``notes`` are lines that tell the user what was left out or assumed.
    """

    classes: list[str]
    images: list[LabelledImage]
    notes: list[str] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)
