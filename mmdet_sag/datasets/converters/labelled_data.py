from dataclasses import dataclass, field

from .labelled_image import LabelledImage


@dataclass
class LabelledData:
    """What a source holds.

    Args:
        classes: Class names in the source's order.
        images: Its images.
        notes: Lines for the user about what was left out or assumed.
    """

    classes: list[str]
    images: list[LabelledImage]
    notes: list[str] = field(default_factory=list)
