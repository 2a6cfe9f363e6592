"""Checks of image files."""

import os
from collections.abc import Iterable

import cv2
import numpy as np

from ..datasets.converters.source_files import READ_ERRORS, exif_orientation, open_image
from .problem_kinds import PROBLEM_KINDS

# Orientations of EXIF that exchange width and height, and all that turn or mirror.
_TURNED, _CHANGED = range(5, 9), range(2, 9)


def missing_images(image_folder: str, file_names: Iterable[str]) -> list[str]:
    """Return the file names that do not exist in a folder, in their order; each folder is listed only once."""
    present: dict[str, set[str]] = {}
    missing = []
    for file_name in file_names:
        folder, name = os.path.split(os.path.join(image_folder, file_name))
        if folder not in present:
            try:
                present[folder] = set(os.listdir(folder or '.'))
            except OSError:
                present[folder] = set()
        # A folder may be closed to listing alone.
        if name not in present[folder] and not os.path.exists(os.path.join(folder, name)):
            missing.append(file_name)
    return missing


def _size_problem(stored: tuple[int, int], orientation: int, expected: tuple[int, int]) -> str | None:
    seen = stored[::-1] if orientation in _TURNED else stored
    if seen == expected:
        return 'exif-turned-image' if orientation in _CHANGED and stored == expected else None
    return 'exif-rotated-image' if stored == expected else 'image-size-mismatch'


def header_problem(path: str, expected: tuple[int, int]) -> str | None:
    """Return the problem that the header of an existing image shows, or None; ``expected`` is width and height."""
    try:
        with open_image(path) as image:
            orientation = exif_orientation(image)
            # Pillow turns a TIFF itself, and returns the turned size.
            already_turned = image.format == 'TIFF' and orientation in _TURNED
            return _size_problem(image.size[::-1] if already_turned else image.size, orientation, expected)
    except READ_ERRORS:
        return 'undecodable-image'


def image_problem(path: str, expected: tuple[int, int]) -> str | None:
    """Return the problem of an image file that is decoded as training does it, or None."""
    if not os.path.isfile(path):
        return 'missing-image'
    problem = header_problem(path, expected)
    if problem is not None and not PROBLEM_KINDS[problem].notice:
        return problem
    try:
        with open_image(path) as image:
            # Pillow refuses a truncated file; OpenCV fills it with grey.
            image.load()
        # As mmcv reads it, whose import takes seconds.
        pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    except READ_ERRORS:
        return 'undecodable-image'
    if pixels is None:
        return 'undecodable-image'
    return _size_problem(pixels.shape[1::-1], 1, expected) or problem
