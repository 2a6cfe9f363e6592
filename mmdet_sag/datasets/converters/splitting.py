"""Which images are for training and which for validation."""

import hashlib
import re
from collections.abc import Sequence

from ...errors import InputError
from .labelled_image import LabelledImage


def split_images(images: Sequence[LabelledImage], share: float, seed: int = 0, group_by: str | None = None) -> None:
    """Set the split of every image to ``'train'`` or ``'val'``.

    The order of the names' hashes decides: it is the same on every machine, and images that are added later move few of
    the others.

    Args:
        images: The images.
        share: Share of the validation part, between 0 and 1.
        seed: Another one gives another split.
        group_by: Regular expression that is searched in the names; images where it finds the same text (that of its
            first group, if it has one) stay together.

    Raises:
        InputError: The expression is none or does not fit a name, or one part would be empty.
    """
    if not 0 < share < 1:
        raise InputError(f'the share of the validation part is {share:g}: give one between 0 and 1, such as --val 0.2')
    groups: dict[str, list[LabelledImage]] = {}
    for image in images:
        groups.setdefault(_group(image.name, group_by), []).append(image)
    if len(groups) < 2:
        what = 'group' if group_by else 'image'
        raise InputError(f'there is {len(groups)} {what} to split, and both parts need one: give more images')
    order = sorted(groups, key=lambda name: hashlib.sha256(f'{seed}:{name}'.encode()).digest())
    wanted = share * len(images)
    taken = 0
    for place, name in enumerate(order):
        # The group that comes nearest to the share is the last; both parts get at least one.
        is_val = place == 0 or (place < len(order) - 1 and taken + len(groups[name]) / 2 <= wanted)
        if not is_val:
            wanted = -1
        for image in groups[name]:
            image.split = 'val' if is_val else 'train'
        taken += len(groups[name])


def _group(name: str, pattern: str | None) -> str:
    if pattern is None:
        return name
    try:
        found = re.search(pattern, name)
    except re.error as error:
        raise InputError(f"--group-by '{pattern}' is no regular expression ({error}): correct it") from error
    if found is None:
        raise InputError(f"--group-by '{pattern}' finds nothing in '{name}': give an expression that fits every name")
    return found[1] if found.re.groups and found[1] is not None else found[0]
