from dataclasses import dataclass, field
from pathlib import Path

from .image_header import ImageHeader
from .labelled_object import LabelledObject


@dataclass
class LabelledImage:
    """An image of a source with its objects.

    Args:
        path: Image file, or the place that it would have if ``content`` is given.
        name: Path in the folder of a split, with ``/``.
        header: What the file's header says.
        objects: Objects, in pixels of the picture that was labelled.
        split: ``'train'``, ``'val'`` or ``'test'`` where the source says it.
        drops_orientation: Whether what was labelled is the picture as stored, without the turn of its EXIF tag.
        content: The file's bytes, where a label file holds them.
    """

    path: Path
    name: str
    header: ImageHeader
    objects: list[LabelledObject] = field(default_factory=list)
    split: str | None = None
    drops_orientation: bool = False
    content: bytes | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the picture that was labelled, which is that of the copy."""
        return self.header.stored if self.drops_orientation else self.header.seen
