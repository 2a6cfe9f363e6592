import io
import struct
from dataclasses import dataclass
from pathlib import Path

import mmcv
import numpy as np
from PIL import Image, UnidentifiedImageError

from ...errors import InputError

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm')
_ORIENTATION = 0x0112
# What OpenCV makes three channels of eight bits of, without a choice to take.
_PLAIN_MODES = ('1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA', 'RGBX', 'CMYK', 'YCbCr')
# Below this the whole picture is darker than a quarter of what eight bits can show.
_DARK = 64


@dataclass(frozen=True)
class ImageHeader:
    """Size and orientation of an image file.

    Args:
        stored: Width and height of the pixels in the file.
        orientation: Orientation of EXIF, 1 to 8; 1 is upright.
    """

    stored: tuple[int, int]
    orientation: int = 1

    @property
    def seen(self) -> tuple[int, int]:
        """Width and height as viewers and training see it, turned by its orientation."""
        return self.stored[::-1] if self.orientation >= 5 else self.stored

    def labels_are_of_stored(
        self, path: Path, label_size: tuple[int, int] | None, exif: str | None, habit: str | None = None
    ) -> bool:
        """Whether labels belong to the pixels as stored, without the turn of the orientation.

        Args:
            path: The image file.
            label_size: Width and height that the labels say, where they do.
            exif: What the user says, ``'turned'`` or ``'stored'``.
            habit: What the labelling tool does, where it is known.

        Raises:
            InputError: The labels are of another size, or nothing tells which picture they belong to.
        """
        fits = {view for view, size in (('turned', self.seen), ('stored', self.stored)) if label_size in (None, size)}
        if not fits:
            raise InputError(
                f"'{path}' is {self.seen[0]}x{self.seen[1]} pixels, but its labels are of "
                f'{label_size[0]}x{label_size[1]}: give the image that was labelled, or leave it out'
            )
        if self.orientation == 1:
            return False
        view = fits.pop() if len(fits) == 1 else (exif or habit)
        if view is None:
            raise InputError(
                f"'{path}' has EXIF orientation {self.orientation}, and its labels may belong to the turned picture or "
                'to the stored one: say which with --exif turned or --exif stored'
            )
        return view == 'stored'


def read_header(path: Path, content: bytes | None = None) -> ImageHeader:
    """Read the header of an image file, and refuse what training could not read as it is meant.

    Args:
        path: The file.
        content: Its bytes, where they are elsewhere.

    Raises:
        InputError: The file cannot be decoded or read, or it is of more than eight bits and would come out dark.
    """
    try:
        with Image.open(io.BytesIO(content) if content else path) as image:
            mode, size, kind = image.mode, image.size, image.format
            # Before getexif, which decodes a PNG.
            deep = mode not in _PLAIN_MODES or any('16' in str(tile[3]) for tile in image.tile)
            # Pillow itself applies the orientation of a TIFF.
            orientation = 1 if kind == 'TIFF' else image.getexif().get(_ORIENTATION, 1)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = ' '.join(str(error).split()) if isinstance(error, OSError) and error.strerror else 'no known format'
        raise InputError(f"image '{path}' cannot be read ({reason}): replace it, or leave it out") from error
    if deep:
        _check_depth(path, content, mode)
    return ImageHeader(size, orientation if orientation in range(1, 9) else 1)


def without_orientation(path: Path, content: bytes) -> bytes:
    """A copy of an image file that no viewer turns: its pixels are the same, its EXIF orientation is 1.

    Args:
        path: Path of the file, for the message.
        content: Its bytes; JPEG and PNG can be changed.

    Raises:
        InputError: It is of another format.
    """
    with Image.open(io.BytesIO(content)) as image:
        exif = image.info.get('exif', b'')
        if image.format == 'PNG':
            copy = io.BytesIO()
            image.save(copy, 'PNG', exif=b'', icc_profile=image.info.get('icc_profile'))
            return copy.getvalue()
        is_jpeg = image.format in ('JPEG', 'MPO')
    # Encoding a JPEG anew would change its pixels: its tag alone is overwritten.
    start, field = content.find(exif), _orientation_field(exif)
    if not is_jpeg or start < 0 or field is None:
        raise InputError(
            f"the EXIF orientation of '{path}' cannot be removed from a file of this kind: remove it with 'exiftool "
            "-Orientation= FILE', and convert again"
        )
    place, order = field
    return content[: start + place] + struct.pack(order + 'H', 1) + content[start + place + 2 :]


def _orientation_field(exif: bytes) -> tuple[int, str] | None:
    """Place of the value of the orientation in an EXIF block, and its byte order."""
    base = 6 if exif.startswith(b'Exif\0\0') else 0
    order = {b'II': '<', b'MM': '>'}.get(exif[base : base + 2])
    if order is None:
        return None
    try:
        (directory,) = struct.unpack_from(order + 'I', exif, base + 4)
        (count,) = struct.unpack_from(order + 'H', exif, base + directory)
        for index in range(count):
            entry = base + directory + 2 + 12 * index
            if struct.unpack_from(order + 'H', exif, entry) == (_ORIENTATION,):
                return entry + 8, order
    except struct.error:
        pass
    return None


def _check_depth(path: Path, content: bytes | None, mode: str) -> None:
    pixels = mmcv.imfrombytes(content or path.read_bytes())
    if not isinstance(pixels, np.ndarray):
        raise InputError(f"image '{path}' has pixels that training cannot read ({mode}): save it as 8-bit PNG")
    if pixels.max() < _DARK:
        raise InputError(
            f"image '{path}' has more than 8 bits, of which it uses the lower ones: training divides by 256 and would "
            f'see values up to {pixels.max()} of 255; scale the images to 8 bits first'
        )
