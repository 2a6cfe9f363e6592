from dataclasses import dataclass


@dataclass(frozen=True)
class PanopticSource:
    """The panoptic annotations of a data set as a config names it.

    Args:
        option: Place of the data set in the config.
        ann_file: File of the segments.
        png_folder: Folder of the panoptic PNG files.
        thing_classes: Names of the things that the model is to learn.
        stuff_classes: Names of stuff likewise.
    """

    option: str
    ann_file: str
    png_folder: str
    thing_classes: tuple[str, ...]
    stuff_classes: tuple[str, ...]
