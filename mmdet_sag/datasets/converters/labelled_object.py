from dataclasses import dataclass


@dataclass(frozen=True)
class LabelledObject:
    """An object of an image, before it becomes an annotation of COCO.

    Args:
        name: Its class.
        segmentation: Polygons, each ``[x1, y1, x2, y2, ...]`` in pixels, or a compressed RLE.
        is_crowd: Whether it is a region of many objects.
        bbox: Box (x, y, width, height), where the source has one; else it is that of the mask.
        area: Area in pixels, likewise.
    """

    name: str
    segmentation: list | dict
    is_crowd: bool = False
    bbox: list | None = None
    area: float | None = None
