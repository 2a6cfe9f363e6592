"""What is read of a data set in COCO's format. MMDetection, which takes seconds to import, is not needed for it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..errors import InputError


def missing(what: str, path: str, options: str) -> InputError:
    """Return the error that a file or folder which ``options`` name does not exist."""
    return InputError(f"{what} '{path}' does not exist: put it or a link there, or set --cfg-options {options}")


@dataclass(frozen=True, kw_only=True)
class CocoSource:
    """A data set in COCO's format, with its paths joined by the data set class.

    Args:
        option: Place of the data set in the config, such as ``train_dataloader.dataset``: what ``--cfg-options`` takes.
        ann_file, image_folder: Annotation file, and folder that file names in it are relative to.
        classes: Class names of the objects, in the order of the model's outputs.
        filter_cfg: Which images the data set leaves out.
        test_mode: Whether the data set is for evaluation, where nothing is left out.
        indices: Which images of the file are used, as MMEngine's data sets take it: the first so many, the last so
            many if negative, or those at certain places; None: all.
        loads_masks: Whether the pipeline loads masks; None if it loads annotations in a way of its own.
        poly2mask: Place in the config of the option that makes bitmaps of polygons, if the pipeline loads masks.
        polygons_only: Whether the pipeline keeps polygons, and ignores objects whose mask is an RLE.
        boxes_suffice: Whether the pipeline takes objects that have a box and no mask.
        boxes_only: Whether it leaves all masks out.
        labelled: Whether the pipeline reads labels; the unlabelled images of semi-supervised training need none.
        metainfo: What the data set says about itself: its classes, their colours and so on.
    """

    option: str
    ann_file: str
    image_folder: str
    classes: tuple[str, ...]
    filter_cfg: dict
    test_mode: bool
    indices: int | Sequence[int] | None = None
    loads_masks: bool | None = None
    poly2mask: str | None = None
    polygons_only: bool = False
    boxes_suffice: bool = False
    boxes_only: bool = False
    labelled: bool = True
    metainfo: dict = field(default_factory=dict)

    @property
    def class_counts(self) -> dict[str, int]:
        """The number of classes by the option of a model's heads that must equal it."""
        return dict(num_classes=len(self.classes))

    def of_indices(self, images: list[dict]) -> list[dict]:
        """Return the entries that ``indices`` selects of ``images``, those that the filter leaves."""
        if self.indices is None:
            return images
        if isinstance(self.indices, int):
            return images[: self.indices] if self.indices >= 0 else images[self.indices :]
        if self.indices and not -len(images) <= min(self.indices) <= max(self.indices) < len(images):
            raise InputError(
                f"{self.option}.indices reach beyond the {len(images)} images of '{self.ann_file}' that its filter "
                'leaves: name fewer'
            )
        return [images[index] for index in self.indices]

    def require_image_folder(self) -> None:
        """Raise an :class:`InputError` if the image folder does not exist, or is closed to this user."""
        if not os.path.isdir(self.image_folder or '.'):
            raise missing('image folder', self.image_folder, f'{self.option}.data_prefix.img=DIR')
        if not os.access(self.image_folder or '.', os.X_OK):
            raise InputError(f"image folder '{self.image_folder}' is closed to this user: ask for the right to read it")


@dataclass(frozen=True, kw_only=True)
class PanopticSource(CocoSource):
    """A data set in COCO's format that has panoptic annotations too.

    Its ``classes`` are the things; ``stuff_classes`` follow in the model's outputs.
    """

    panoptic_ann_file: str
    png_folder: str
    stuff_classes: tuple[str, ...]

    @property
    def class_counts(self) -> dict[str, int]:
        """See :class:`CocoSource`."""
        things, stuff = len(self.classes), len(self.stuff_classes)
        return dict(num_classes=things, num_things_classes=things, num_stuff_classes=stuff)
