"""Pictures whose values are numbers of objects or classes."""

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from ...errors import InputError


def read_values(path: Path) -> np.ndarray:
    """The values of a mask picture (H, W), int32: those of a palette or of grey, or R * 65536 + G * 256 + B.

    Raises:
        InputError: It cannot be read, or has shades that come from a lossy format.
    """
    if path.suffix.lower() in ('.jpg', '.jpeg'):
        raise InputError(f"mask '{path}' is a JPEG, whose values are not exact: export the masks as PNG")
    try:
        with Image.open(path) as image:
            if image.mode in ('RGB', 'RGBA', 'RGBX'):
                return _joined(np.asarray(image.convert('RGB')))
            if image.mode in ('LA', 'PA'):
                image = image.getchannel(0)
            if image.mode == 'F':
                raise InputError(f"mask '{path}' has fractions as values: export the masks as 8- or 16-bit PNG")
            return np.asarray(image).astype(np.int32)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"mask '{path}' cannot be read: export it again, or leave the image out") from error


def read_colours(path: Path) -> np.ndarray:
    """The colours of a mask picture (H, W), int32, as R * 65536 + G * 256 + B, also where they come from a palette.

    Raises:
        InputError: It cannot be read.
    """
    try:
        with Image.open(path) as image:
            return _joined(np.asarray(image.convert('RGB')))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise InputError(f"mask '{path}' cannot be read: export it again, or leave the image out") from error


def _joined(colours: np.ndarray) -> np.ndarray:
    red, green, blue = np.moveaxis(colours.astype(np.int32), -1, 0)
    return (red << 16) + (green << 8) + blue
