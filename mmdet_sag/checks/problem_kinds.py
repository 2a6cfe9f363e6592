"""What can be wrong with a data set in COCO's format: all that is known about a kind of problem is its row here."""

import enum
from dataclasses import dataclass


class Subject(enum.Enum):
    """The part of a data set that a problem concerns."""

    IMAGE = enum.auto()
    CATEGORY = enum.auto()
    ANNOTATION = enum.auto()
    BOX = enum.auto()
    AREA = enum.auto()
    MASK = enum.auto()
    SEGMENT = enum.auto()


class Fix(enum.Enum):
    """What ``tools/misc/check_dataset.py --fix`` does about a problem."""

    DROP_IMAGE = 'image and its annotations removed'
    DROP_LATER_IMAGE = 'later entry removed'
    DROP_ANNOTATION = 'annotation removed'
    DROP_POLYGON = 'polygon removed; annotation removed if it was the last one'
    NEW_ID = 'removed if the same, else a new id given'
    ADD_ISCROWD = 'iscrowd=0 added'
    ADD_BOX = 'box of the mask added'
    ADD_AREA = 'area of the mask added'
    REPLACE_BOX = 'box of the mask put in its place'
    REPLACE_AREA = 'area of the mask put in its place'
    CLIP_BOX = 'box clipped'


@dataclass(frozen=True)
class ProblemKind:
    """One kind of broken data.

    Args:
        subject: What it concerns.
        meaning: What is wrong, to be printed after a count.
        stops_training: Whether the data, left as they are, crash training, make it hang or silently ruin it.
        stops_evaluation: The same for an evaluation with COCO's metric.
        fix: What the repair does about it; None where only a person can decide.
        notice: Whether this can be meant so and alone does not make a data set unclean.
        hides_mask: Whether training skips such an annotation before it looks at the mask.
        of_one_image: What is wrong, to be printed after the path of an image of ``{width}`` and ``{height}``.
        remedy: What to do where no repair helps; ``{poly2mask}`` is the place of that option in the config.
    """

    subject: Subject
    meaning: str
    stops_training: bool = False
    stops_evaluation: bool = False
    fix: Fix | None = None
    notice: bool = False
    hides_mask: bool = False
    of_one_image: str = ''
    remedy: str = 'correct the file'


PROBLEM_KINDS = {
    'image-entry-malformed': ProblemKind(
        Subject.IMAGE, 'image entries without a usable id, file_name, width or height', True, True, Fix.DROP_IMAGE
    ),
    'duplicate-image-id': ProblemKind(Subject.IMAGE, 'image ids used more than once', True, True, Fix.DROP_LATER_IMAGE),
    'duplicate-file-name': ProblemKind(Subject.IMAGE, 'images listed under several ids'),
    'missing-image': ProblemKind(Subject.IMAGE, 'image files that do not exist', True, True, Fix.DROP_IMAGE),
    'undecodable-image': ProblemKind(
        Subject.IMAGE,
        'image files that cannot be decoded',
        True,
        True,
        Fix.DROP_IMAGE,
        of_one_image='cannot be decoded',
    ),
    'image-size-mismatch': ProblemKind(
        Subject.IMAGE,
        'images whose decoded size is not the one in the annotation file',
        True,
        True,
        Fix.DROP_IMAGE,
        of_one_image='is not {width} x {height} as the annotation file says',
    ),
    'exif-rotated-image': ProblemKind(
        Subject.IMAGE,
        'images whose size agrees only before their EXIF orientation is applied',
        True,
        True,
        Fix.DROP_IMAGE,
        of_one_image='is turned by its EXIF orientation, unlike the sizes in the annotation file',
    ),
    'exif-turned-image': ProblemKind(
        Subject.IMAGE,
        'images that their EXIF orientation turns or mirrors without a change of size: training sees them turned, so '
        'look whether they were annotated so',
        notice=True,
        of_one_image='is turned by its EXIF orientation',
    ),
    'category-malformed': ProblemKind(Subject.CATEGORY, 'categories without a usable id or name', True, True),
    'duplicate-category-id': ProblemKind(Subject.CATEGORY, 'category ids used more than once', True, True),
    'duplicate-category-name': ProblemKind(Subject.CATEGORY, 'category names used more than once', True, True),
    'class-not-in-file': ProblemKind(
        Subject.CATEGORY, 'classes of the config that the annotation file does not have', True, True
    ),
    'class-order-differs': ProblemKind(
        Subject.CATEGORY, "classes of the config in another order than the file's categories", True, True
    ),
    'category-not-in-config': ProblemKind(
        Subject.CATEGORY, 'categories of the annotation file that the config leaves out', notice=True
    ),
    'annotation-malformed': ProblemKind(
        Subject.ANNOTATION, 'annotations that lack a key', True, True, Fix.DROP_ANNOTATION
    ),
    'missing-iscrowd': ProblemKind(Subject.ANNOTATION, 'annotations without iscrowd', False, True, Fix.ADD_ISCROWD),
    'missing-area': ProblemKind(Subject.AREA, 'annotations without area', True, True, Fix.ADD_AREA),
    'missing-box': ProblemKind(Subject.BOX, 'annotations without bbox', True, True, Fix.ADD_BOX),
    'bad-iscrowd': ProblemKind(
        Subject.ANNOTATION, 'annotations whose iscrowd is neither 0 nor 1', False, True, Fix.DROP_ANNOTATION
    ),
    'duplicate-annotation-id': ProblemKind(
        Subject.ANNOTATION, 'annotation ids used more than once', True, True, Fix.NEW_ID
    ),
    'unknown-image': ProblemKind(
        Subject.ANNOTATION, 'annotations of an image that is not listed', fix=Fix.DROP_ANNOTATION
    ),
    'unknown-category': ProblemKind(
        Subject.ANNOTATION, 'annotations of a category that is not listed', fix=Fix.DROP_ANNOTATION
    ),
    'category-ids-as-text': ProblemKind(
        Subject.ANNOTATION,
        "annotations whose category id is a text where the file's categories have numbers, or the reverse",
        True,
        True,
        remedy='write the category ids of both as numbers',
    ),
    'category-ids-shifted': ProblemKind(
        Subject.ANNOTATION,
        "annotations of a category that is not listed, just beside the file's ids: annotations and categories count "
        'from 0 and from 1, so that all other annotations have a wrong class',
        True,
        True,
        remedy='number categories and annotations alike',
    ),
    'many-unknown-categories': ProblemKind(
        Subject.ANNOTATION,
        'annotations, a large share of the file, of a category that is not listed',
        True,
        True,
        remedy='list all categories in the file, or correct the ids',
    ),
    'crowd-with-polygons': ProblemKind(
        Subject.ANNOTATION, 'crowd regions given as polygons instead of RLE', notice=True
    ),
    'malformed-box': ProblemKind(Subject.BOX, 'boxes that are not four numbers', True, True, Fix.REPLACE_BOX),
    'non-finite-box': ProblemKind(Subject.BOX, 'boxes with NaN or infinite numbers', True, True, Fix.REPLACE_BOX),
    'empty-box': ProblemKind(
        Subject.BOX,
        'boxes of zero or negative width or height (training skips them)',
        fix=Fix.REPLACE_BOX,
        hides_mask=True,
    ),
    'sub-pixel-box': ProblemKind(
        Subject.BOX, 'boxes narrower or lower than a pixel (training skips them)', hides_mask=True
    ),
    'box-outside-image': ProblemKind(
        Subject.BOX, 'boxes wholly outside their image (training skips them)', fix=Fix.REPLACE_BOX, hides_mask=True
    ),
    'box-over-border': ProblemKind(
        Subject.BOX, 'boxes that reach over the border by more than a pixel', fix=Fix.CLIP_BOX
    ),
    'bad-area': ProblemKind(Subject.AREA, 'areas that are not a finite number', True, True, Fix.REPLACE_AREA),
    'zero-area': ProblemKind(
        Subject.AREA, 'areas of zero or less (training skips them)', fix=Fix.REPLACE_AREA, hides_mask=True
    ),
    'missing-mask': ProblemKind(Subject.MASK, 'annotations without a mask', True, True, Fix.DROP_ANNOTATION),
    'malformed-mask': ProblemKind(
        Subject.MASK, 'masks that are neither a list of polygons nor an RLE of COCO', True, True, Fix.DROP_ANNOTATION
    ),
    'odd-polygon': ProblemKind(
        Subject.MASK, 'polygons with an odd number of coordinates (training skips them)', fix=Fix.DROP_POLYGON
    ),
    'short-polygon': ProblemKind(
        Subject.MASK, 'polygons of fewer than 3 points (training skips them)', False, True, Fix.DROP_POLYGON
    ),
    'non-finite-polygon': ProblemKind(
        Subject.MASK,
        'polygons with NaN, infinite or absurdly large numbers (rasterising them never ends)',
        True,
        True,
        Fix.DROP_POLYGON,
    ),
    'polygon-outside-image': ProblemKind(Subject.MASK, 'polygons wholly outside their image', fix=Fix.DROP_POLYGON),
    'rle-size-mismatch': ProblemKind(
        Subject.MASK, 'RLE masks of another size than their image', True, True, Fix.DROP_ANNOTATION
    ),
    'undecodable-rle': ProblemKind(Subject.MASK, 'RLE masks that cannot be decoded', True, True, Fix.DROP_ANNOTATION),
    'empty-mask': ProblemKind(Subject.MASK, 'masks without a pixel', fix=Fix.DROP_ANNOTATION),
    'rle-object': ProblemKind(
        Subject.MASK,
        'objects whose mask is an RLE, which a pipeline of polygons (poly2mask=False) turns into background',
        True,
        remedy='set --cfg-options {poly2mask}=True, with which all masks are learnt as bitmaps,',
    ),
    'category-kind-unknown': ProblemKind(
        Subject.CATEGORY, 'categories of the panoptic file without isthing', True, True
    ),
    'category-kind-differs': ProblemKind(
        Subject.CATEGORY,
        'categories of the panoptic file that are things there and stuff in the config, or the reverse',
        True,
        True,
        remedy="correct the thing_classes and stuff_classes of the data set's metainfo",
    ),
    'panoptic-entry-malformed': ProblemKind(
        Subject.SEGMENT, 'panoptic annotations that lack a key, or have a segment that does', True, True
    ),
    'duplicate-panoptic-entry': ProblemKind(Subject.SEGMENT, 'images with several panoptic annotations', True, True),
    'missing-panoptic-entry': ProblemKind(Subject.SEGMENT, 'images without a panoptic annotation', True, True),
    'unknown-segment-category': ProblemKind(Subject.SEGMENT, 'segments of a category that is not listed', True, True),
    'impossible-segment-id': ProblemKind(Subject.SEGMENT, 'segments whose id no colour of a PNG can have', True, True),
    'duplicate-segment-id': ProblemKind(Subject.SEGMENT, 'images with a segment id used more than once', True, True),
    'missing-png': ProblemKind(
        Subject.SEGMENT, 'panoptic PNG files that do not exist', True, True, remedy='complete the folder'
    ),
    'undecodable-png': ProblemKind(
        Subject.SEGMENT, 'panoptic PNG files that cannot be decoded', True, True, remedy='replace the file'
    ),
    'png-size-mismatch': ProblemKind(
        Subject.SEGMENT, 'panoptic PNG files of another size than their image', True, True, remedy='replace the file'
    ),
    'colour-without-segment': ProblemKind(
        Subject.SEGMENT,
        'panoptic PNG files with a colour that is the id of none of their segments',
        True,
        True,
        remedy='take file and folder of the same annotations',
    ),
    'empty-segment': ProblemKind(
        Subject.SEGMENT,
        'segments without a pixel in their panoptic PNG',
        False,
        True,
        remedy='take file and folder of the same annotations',
    ),
}
