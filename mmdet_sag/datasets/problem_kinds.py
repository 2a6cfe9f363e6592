"""What can be wrong with a data set in COCO's format."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ProblemKind:
    """One kind of broken data.

    Args:
        meaning: What is wrong, to be printed after a count.
        stops_training: Whether the data, left as they are, crash training, make it hang or silently ruin it.
        stops_evaluation: The same for an evaluation with COCO's metric.
        fix: What ``tools/misc/check_dataset.py --fix`` does about it; empty where only a person can decide.
        notice: Whether this can be meant so and alone does not make a data set unclean.
    """

    meaning: str
    stops_training: bool = False
    stops_evaluation: bool = False
    fix: str = ''
    notice: bool = False


MASK_BOX = 'box of the mask put in its place'
MASK_AREA = 'area of the mask put in its place'
DROP_ANNOTATION = 'annotation removed'
DROP_IMAGE = 'image and its annotations removed'
DROP_POLYGON = 'polygon removed; annotation removed if it was the last one'

PROBLEM_KINDS = {
    # Images
    'image-entry-malformed': ProblemKind(
        'image entries without a usable id, file_name, width or height', True, True, DROP_IMAGE
    ),
    'duplicate-image-id': ProblemKind('image ids used more than once', True, True, 'later entry removed'),
    'duplicate-file-name': ProblemKind('images listed under several ids'),
    'missing-image': ProblemKind('image files that do not exist', True, True, DROP_IMAGE),
    'undecodable-image': ProblemKind('image files that cannot be decoded', True, True, DROP_IMAGE),
    'image-size-mismatch': ProblemKind(
        'images whose decoded size is not the one in the annotation file', True, True, DROP_IMAGE
    ),
    'exif-rotated-image': ProblemKind(
        'images whose size agrees only before their EXIF orientation is applied', True, True, DROP_IMAGE
    ),
    # Categories
    'category-malformed': ProblemKind('categories without a usable id or name', True, True),
    'duplicate-category-id': ProblemKind('category ids used more than once', True, True),
    'duplicate-category-name': ProblemKind('category names used more than once', True, True),
    'class-not-in-file': ProblemKind('classes of the config that the annotation file does not have', True, True),
    'class-order-differs': ProblemKind("classes of the config in another order than the file's categories", True, True),
    'category-not-in-config': ProblemKind('categories of the annotation file that the config leaves out', notice=True),
    # Annotations
    'annotation-malformed': ProblemKind('annotations that lack a key', True, True, DROP_ANNOTATION),
    'missing-iscrowd': ProblemKind('annotations without iscrowd', False, True, 'iscrowd=0 added'),
    'missing-area': ProblemKind('annotations without area', True, True, 'area of the mask added'),
    'missing-box': ProblemKind('annotations without bbox', True, True, 'box of the mask added'),
    'bad-iscrowd': ProblemKind('annotations whose iscrowd is neither 0 nor 1', False, True, DROP_ANNOTATION),
    'duplicate-annotation-id': ProblemKind(
        'annotation ids used more than once', True, True, 'removed if the same, else a new id given'
    ),
    'unknown-image': ProblemKind('annotations of an image that is not listed', fix=DROP_ANNOTATION),
    'unknown-category': ProblemKind('annotations of a category that is not listed', fix=DROP_ANNOTATION),
    'crowd-with-polygons': ProblemKind('crowd regions given as polygons instead of RLE', notice=True),
    # Boxes
    'malformed-box': ProblemKind('boxes that are not four numbers', True, True, MASK_BOX),
    'non-finite-box': ProblemKind('boxes with NaN or infinite numbers', True, True, MASK_BOX),
    'empty-box': ProblemKind('boxes of zero or negative width or height (training skips them)', fix=MASK_BOX),
    'sub-pixel-box': ProblemKind('boxes narrower or lower than a pixel (training skips them)'),
    'box-outside-image': ProblemKind('boxes wholly outside their image (training skips them)', fix=MASK_BOX),
    'box-over-border': ProblemKind('boxes that reach over the border by more than a pixel', fix='box clipped'),
    'bad-area': ProblemKind('areas that are not a finite number', True, True, MASK_AREA),
    'zero-area': ProblemKind('areas of zero or less (training skips them)', fix=MASK_AREA),
    # Masks
    'missing-mask': ProblemKind('annotations without a mask', True, True, DROP_ANNOTATION),
    'malformed-mask': ProblemKind(
        'masks that are neither a list of polygons nor an RLE of COCO', True, True, DROP_ANNOTATION
    ),
    'odd-polygon': ProblemKind('polygons with an odd number of coordinates (training skips them)', fix=DROP_POLYGON),
    'short-polygon': ProblemKind('polygons of fewer than 3 points (training skips them)', False, True, DROP_POLYGON),
    'non-finite-polygon': ProblemKind(
        'polygons with NaN, infinite or absurdly large numbers (rasterising them never ends)', True, True, DROP_POLYGON
    ),
    'polygon-outside-image': ProblemKind('polygons wholly outside their image', fix=DROP_POLYGON),
    'rle-size-mismatch': ProblemKind('RLE masks of another size than their image', True, True, DROP_ANNOTATION),
    'undecodable-rle': ProblemKind('RLE masks that cannot be decoded', True, True, DROP_ANNOTATION),
    'empty-mask': ProblemKind('masks without a pixel', fix=DROP_ANNOTATION),
}
