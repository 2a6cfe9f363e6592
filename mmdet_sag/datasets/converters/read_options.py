from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError


@dataclass(frozen=True)
class ReadOptions:
    """What a person knows about a source that its files do not say.

    Args:
        class_names: Names of the classes by their number in the source.
        image_folder: Folder of the images, where it is not beside the labels.
        exif: ``'turned'`` or ``'stored'``: whether labels belong to pictures as EXIF orientation turns them, or as
            they are stored; None where the sizes, or the habit of the labelling tool, decide.
        components: Whether each connected region of a mask is an object of its own; None where the values decide.
    """

    class_names: list[str] | None = None
    image_folder: Path | None = None
    exif: str | None = None
    components: bool | None = None

    def refuse_class_names(self, source: Path) -> None:
        """Refuse names for class numbers where the labels are names themselves.

        Raises:
            InputError: Names are given.
        """
        if self.class_names:
            raise InputError(
                f"--source-classes: the labels of '{source}' are names, not numbers: change them with --rename"
            )
