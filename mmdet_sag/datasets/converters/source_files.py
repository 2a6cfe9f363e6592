"""Finding and reading the files of a source, and what of them cannot be used while the rest is converted."""

import io
import itertools
import json
import math
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from xml.etree import ElementTree

import numpy as np
import yaml
from PIL import Image

from ...errors import InputError

NOT_LEARNT = 'not learnt'
IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.jfif', '.png', '.bmp', '.tif', '.tiff', '.webp', '.avif', '.ppm', '.pgm')
# OpenCV, with which training reads, takes no more.
MAX_PIXELS = 2**30
# What Pillow raises for a damaged file.
READ_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
_ORIENTATION = 0x0112
# Pillow's limit is a variable of its module.
_LOCK = threading.Lock()
# OpenCV converts these modes to three channels of eight bits without loss.
_PLAIN_MODES = ('1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA', 'RGBX', 'CMYK', 'YCbCr')
# If no value reaches it, the image uses a quarter of the range of eight bits.
_DARK = 64
_SPLITS = dict(
    train='train', training='train', val='val', valid='val', validation='val', test='test', testing='test'
)  # fmt: skip
# Data sets name thousands of classes and files.
_LARGEST_YAML = 1_000_000


class EntryError(InputError):
    """One image or object of a source cannot be used. A reader leaves it out and goes on.

    Args:
        place: Where it is: a file, or a line or entry of one.
        reason: What is wrong, equal for equal mistakes.
        remedy: What the user can do.
        detail: What differs between equal mistakes.
    """

    def __init__(self, place: str, reason: str, remedy: str, detail: str = '') -> None:
        super().__init__(f'{place}: {reason}{f" ({detail})" if detail else ""}: {remedy}')
        self.place, self.reason = place, reason


class LeftOut(dict[str, list[EntryError]]):
    """What a reader left out: errors by kind.

    Broken are ``'images'``, ``'objects'`` and ``'polygons'`` of objects that keep others. :data:`NOT_LEARNT` is what
    may be meant so: images without labels, and shapes without area.
    """

    def add(self, kind: str, place: str, reason: str, remedy: str = 'correct or delete it') -> None:
        """Count something; the arguments are those of :class:`EntryError`."""
        self.setdefault(kind, []).append(EntryError(place, reason, remedy))

    @contextmanager
    def collect(self, kind: str) -> Iterator[None]:
        """Keep an :class:`EntryError` of the block, and go on after it."""
        try:
            yield
        except EntryError as error:
            self.setdefault(kind, []).append(error)


def split_of(name: str) -> str | None:
    """``'train'``, ``'val'`` or ``'test'`` if a file or folder is named so, as in ``instances_val2017``, else None."""
    found = {_SPLITS[word] for word in re.findall(r'[^\W\d_]+', name.lower()) if word in _SPLITS}
    return found.pop() if len(found) == 1 else None


def split_of_folders(place: Path) -> str | None:
    """The split that the first of a file's folders names, or None."""
    return next(filter(None, map(split_of, place.parts[:-1])), None)


def without_split(place: Path, *others: str) -> str:
    """The path of a file with ``/``, without folders that name a split or are called like one of ``others``."""
    folders = (part for part in place.parts[:-1] if part not in others and not split_of(part))
    return Path(*folders, place.name).as_posix()


def images_below(folder: Path) -> list[Path]:
    """All image files below a folder, sorted; hidden files are left out."""
    return [path for path in files_below(folder, '') if path.suffix.lower() in IMAGE_SUFFIXES]


def files_below(folder: Path, suffix: str) -> Iterator[Path]:
    """Files below a folder that end in ``suffix``, sorted; hidden files are left out."""
    return (path for path in sorted(folder.rglob(f'*{suffix}')) if not path.name.startswith('.') and path.is_file())


def located(text: str, folders: Sequence[Path], moved: bool = False, least: int = 1) -> Path | None:
    """The file or folder that a source names, in the first of these folders that has it, or None.

    Backslashes separate folders, as on Windows. Of an absolute path of another machine the end counts and, if
    ``moved``, of a relative path too; ``least`` is the number of the last parts that must be there.
    """
    windows = PureWindowsPath(text)
    parts = [part for part in windows.parts if part not in (windows.anchor, '.')]
    ends = [Path(text), Path(*parts)]
    if windows.anchor or moved or '..' in parts:
        ends += [Path(*parts[first:]) for first in range(1, len(parts) - least + 1)]
    candidates = (folder / end for end in ends for folder in folders)
    return next((path for path in candidates if os.path.exists(path)), None)


def image_beside(path: Path) -> Path | None:
    """The image with the name of ``path`` except its suffix, or None."""
    # The last two to say that they cannot be read.
    suffixes = (variant for suffix in (*IMAGE_SUFFIXES, '.heic', '.heif') for variant in (suffix, suffix.upper()))
    return next(filter(Path.is_file, (path.with_name(path.stem + suffix) for suffix in suffixes)), None)


def read_text(path: Path) -> str:
    """Read a text file in UTF-8."""
    try:
        return path.read_text(encoding='utf-8-sig')
    except UnicodeDecodeError as error:
        raise EntryError(f"'{path}'", 'is not text in UTF-8', 'save it as UTF-8') from error
    except OSError as error:
        raise EntryError(f"'{path}'", f'cannot be read ({error.strerror})', 'copy it again') from error


def read_lines(path: Path) -> list[str]:
    """Lines of a text file that are not empty, stripped."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def read_json(path: Path) -> dict:
    """Read a JSON file that holds a mapping."""
    return _mapping(path, read_json_value(path))


def read_json_value(path: Path) -> object:
    """Read a JSON file."""
    return _parsed(path, json.loads, 'JSON', 'it may be truncated; export it again')


def read_xml(path: Path) -> ElementTree.Element:
    """Read the root of an XML file."""
    try:
        return ElementTree.parse(path).getroot()
    # An unknown encoding is a LookupError.
    except (ElementTree.ParseError, ValueError, LookupError, OSError) as error:
        raise EntryError(f"'{path}'", 'is not valid XML', 'it may be truncated; export it again', str(error)) from error


def read_yaml(path: Path) -> dict:
    """Read a YAML file that holds a mapping."""
    return _mapping(path, _parsed(path, _parse_yaml, 'YAML', 'correct it'))


def _parse_yaml(text: str) -> object:
    loader = yaml.SafeLoader(text)
    node = loader.get_single_node()
    if node is None:
        return None
    if _size(node, {}) > _LARGEST_YAML:
        raise yaml.YAMLError('its aliases stand for too many values')
    return loader.construct_document(node)


def _size(node: yaml.Node, known: dict[int, float]) -> float:
    """Number of values below a node, those of its aliases included."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        # Of an alias inside of what it stands for.
        known[id(node)] = math.inf
        children = node.value if isinstance(node, yaml.SequenceNode) else itertools.chain(*node.value)
        known[id(node)] = 1 + sum(_size(child, known) for child in children)
    return known[id(node)]


def read_if_possible(read: Callable[[Path], dict], path: Path) -> dict:
    """What ``read`` returns, or an empty mapping for a file that it refuses, which may belong to another program."""
    try:
        return read(path)
    except InputError:
        return {}


def _parsed(path: Path, parse: Callable[[str], object], kind: str, remedy: str) -> object:
    text = read_text(path)
    try:
        return parse(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise EntryError(f"'{path}'", f'is not valid {kind}', remedy, ' '.join(str(error).split())) from error


def _mapping(path: Path, content: object) -> dict:
    if not isinstance(content, dict):
        reason = f'holds a {type(content).__name__} instead of a mapping'
        raise EntryError(f"'{path}'", reason, 'correct it, or leave it out')
    return content


@dataclass(frozen=True)
class ImageHeader:
    """Width and height of the pixels in an image file, and its EXIF orientation, 1 to 8; 1 is upright."""

    stored: tuple[int, int]
    orientation: int = 1

    @property
    def seen(self) -> tuple[int, int]:
        """Width and height in viewers and in training, which apply the orientation."""
        return self.stored[::-1] if self.orientation >= 5 else self.stored


def open_image(path: str | Path) -> Image.Image:
    """Open an image file as Pillow does, but of up to ``MAX_PIXELS`` pixels instead of 179 million."""
    with _LOCK:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MAX_PIXELS // 2
        try:
            return Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def exif_orientation(image: Image.Image) -> int:
    """The orientation of an opened image that OpenCV applies, with which training reads."""
    # Pillow also takes that of XMP and of ImageMagick's text in a PNG, and OpenCV none of an AVIF.
    for other in ('xmp', 'XML:com.adobe.xmp', 'Raw profile type exif'):
        image.info.pop(other, None)
    return 1 if image.format == 'AVIF' else image.getexif().get(_ORIENTATION, 1)


def read_header(path: Path, content: bytes | None = None) -> ImageHeader:
    """Read the header of an image file, or of its bytes ``content``, and check that training can read it.

    Raises:
        EntryError: The file cannot be decoded, or has more than eight bits and would be dark.
    """
    try:
        with Image.open(io.BytesIO(content)) if content else open_image(path) as image:
            mode, size, kind = image.mode, image.size, image.format
            # Before getexif, which decodes a PNG.
            deep = mode not in _PLAIN_MODES or any('16' in str(tile[3]) for tile in image.tile)
            # Pillow itself applies the orientation of a TIFF.
            orientation = 1 if kind == 'TIFF' else exif_orientation(image)
    except READ_ERRORS as error:
        is_large = isinstance(error, Image.DecompressionBombError)
        reason = ' '.join(str(error).split()) if is_large or getattr(error, 'strerror', None) else 'unknown format'
        remedy = 'cut it into tiles' if is_large else 'save it as JPEG or PNG'
        raise EntryError(f"image '{path}'", 'cannot be read', remedy, reason) from error
    # Not every OpenCV reads AVIF, and none HEIF.
    if deep or kind in ('AVIF', 'HEIF'):
        _check_pixels(path, content, mode, deep)
    return ImageHeader(size, orientation if orientation in range(1, 9) else 1)


def _check_pixels(path: Path, content: bytes | None, mode: str, deep: bool) -> None:
    # Few images come here, and it takes a second to import.
    import mmcv

    pixels = mmcv.imfrombytes(content or path.read_bytes())
    if not isinstance(pixels, np.ndarray):
        raise EntryError(f"image '{path}'", 'has pixels that training cannot read', 'save it as 8-bit PNG', mode)
    if deep and pixels.max() < _DARK:
        raise EntryError(
            f"image '{path}'",
            'uses the lower of its more than 8 bits',
            f'training divides by 256 and would see values up to {pixels.max()} of 255; scale the images to 8 bits',
        )


def without_exif(path: Path, content: bytes) -> bytes:
    """Copy a JPEG or PNG with the same pixels and without EXIF data.

    Viewers and training apply the orientation in them. ``path`` is for the message of other formats.
    """
    with Image.open(io.BytesIO(content)) as image:
        if image.format == 'PNG':
            copy = io.BytesIO()
            image.save(copy, 'PNG', exif=b'', icc_profile=image.info.get('icc_profile'))
            return copy.getvalue()
        exif = image.info.get('exif', b'')
    # Encoding a JPEG again would change its pixels: the segment is cut out.
    segment = b'\xff\xe1' + (len(exif) + 2).to_bytes(4, 'big')[2:] + exif
    if not exif or segment not in content:
        raise InputError(
            f"the EXIF orientation of '{path}' cannot be removed from this kind of file: remove it with 'exiftool "
            "-Orientation= FILE', and convert again"
        )
    return content.replace(segment, b'', 1)
