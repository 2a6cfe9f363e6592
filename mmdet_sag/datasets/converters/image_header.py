import io
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ...errors import InputError
from .left_out import EntryError

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
            orientation = 1 if kind == 'TIFF' else image.getexif().get(_ORIENTATION, 1)
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
