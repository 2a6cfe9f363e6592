from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from ...errors import InputError
from .coco_files import is_coco, read_coco
from .instance_masks import is_cityscapes, is_instance_masks, read_cityscapes, read_instance_masks
from .labelled_data import LabelledData
from .labelme import is_labelme, read_labelme
from .pascal_voc import is_pascal_voc, read_pascal_voc
from .read_options import ReadOptions
from .yolo import is_yolo, read_yolo


class LabelFormat(NamedTuple):
    """A form of labels.

    Args:
        title: What people call it.
        recognises: Says whether a file or folder is of this form.
        read: Reads it.
    """

    title: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path, ReadOptions], LabelledData]


# In the order of asking: the surest signs first.
FORMATS = {
    'voc': LabelFormat('Pascal VOC masks', is_pascal_voc, read_pascal_voc),
    'cityscapes': LabelFormat('Cityscapes instance ids', is_cityscapes, read_cityscapes),
    'yolo': LabelFormat('YOLO segmentation', is_yolo, read_yolo),
    'labelme': LabelFormat('LabelMe', is_labelme, read_labelme),
    'coco': LabelFormat('COCO', is_coco, read_coco),
    'masks': LabelFormat('instance-mask pictures', is_instance_masks, read_instance_masks),
}


def find_format(source: Path, names: Sequence[str] | None = None) -> LabelFormat:
    """Find the form of a source's labels.

    Args:
        source: File or folder.
        names: Keys of :data:`FORMATS` to choose from; None: all.

    Raises:
        InputError: It does not exist, or is of no known form.
    """
    if not source.exists():
        raise InputError(f"'{source}' does not exist: give the folder or file of the labels")
    for name in names or FORMATS:
        if FORMATS[name].recognises(source):
            return FORMATS[name]
    known = ', '.join(entry.title for entry in FORMATS.values())
    raise InputError(
        f"'{source}' is of no known form ({known}): say which with --format, and look at docs/your_data.md for what "
        'belongs where'
    )
