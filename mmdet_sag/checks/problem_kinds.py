"""What can be wrong with a data set in COCO's format. All that is known about a kind of problem is its row here."""

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import InputError

FULL_CHECK = 'mmdet-sag check-data'
REPAIR = f'{FULL_CHECK} CONFIG --fix OUT.json'


class Subject(enum.Enum):
    """The part of a data set that a problem concerns."""

    IMAGE, CATEGORY, ANNOTATION, BOX, AREA, MASK, SEGMENT = range(7)


class Stops(enum.Flag):
    """What a problem crashes, hangs or silently ruins: training, or an evaluation with COCO's metrics."""

    NOTHING = 0
    TRAINING = 1
    EVALUATION = 2
    BOTH = 3


class Fix(enum.Enum):
    """What ``mmdet-sag check-data --fix`` does about a problem."""

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
class Problem:
    """One kind of broken data.

    Args:
        subject: What it concerns.
        meaning: What is wrong, to be printed after a count.
        stops: What the data stop if they are left as they are.
        fix: What the repair does about it; None if only a person can decide.
        notice: Whether this may be intended, so that it alone does not make a data set unclean.
        hides_mask: Whether training skips such an annotation before it looks at the mask.
        of_one_image: What is wrong, to be printed after the path of an image of ``{width}`` and ``{height}``.
        remedy: What to do if no repair helps; ``{poly2mask}`` is the place of that option in the config.
    """

    subject: Subject
    meaning: str
    stops: Stops = Stops.NOTHING
    fix: Fix | None = None
    notice: bool = False
    hides_mask: bool = False
    of_one_image: str = ''
    remedy: str = 'correct the file'


IMAGE, CATEGORY, ANNOTATION, BOX, AREA, MASK, SEGMENT = Subject
TRAINING, EVALUATION, BOTH = Stops.TRAINING, Stops.EVALUATION, Stops.BOTH
_TAKE_BOTH = 'take file and folder of the same annotations'

PROBLEM_KINDS = {
    'image-entry-malformed': Problem(
        IMAGE, 'image entries without a usable id, file_name, width or height', BOTH, Fix.DROP_IMAGE
    ),
    'duplicate-image-id': Problem(IMAGE, 'image ids used more than once', BOTH, Fix.DROP_LATER_IMAGE),
    'duplicate-file-name': Problem(IMAGE, 'images listed under several ids'),
    'missing-image': Problem(IMAGE, 'image files that do not exist', BOTH, Fix.DROP_IMAGE),
    'undecodable-image': Problem(
        IMAGE, 'image files that cannot be decoded', BOTH, Fix.DROP_IMAGE, of_one_image='cannot be decoded'
    ),
    'image-size-mismatch': Problem(
        IMAGE,
        'images whose decoded size is not the one in the annotation file',
        BOTH,
        Fix.DROP_IMAGE,
        of_one_image='is not {width} x {height} as the annotation file says',
    ),
    'exif-rotated-image': Problem(
        IMAGE,
        'images whose size agrees only before their EXIF orientation is applied',
        BOTH,
        Fix.DROP_IMAGE,
        of_one_image='is turned by its EXIF orientation, unlike the sizes in the annotation file',
    ),
    'exif-turned-image': Problem(
        IMAGE,
        'images that their EXIF orientation turns or mirrors without a change of size: training sees them turned, so '
        'check that they were annotated that way',
        notice=True,
        of_one_image='is turned by its EXIF orientation',
    ),
    'category-malformed': Problem(CATEGORY, 'categories without a usable id or name', BOTH),
    'duplicate-category-id': Problem(CATEGORY, 'category ids used more than once', BOTH),
    'duplicate-category-name': Problem(CATEGORY, 'category names used more than once', BOTH),
    'class-not-in-file': Problem(CATEGORY, 'classes of the config that the annotation file does not have', BOTH),
    'duplicate-class': Problem(CATEGORY, 'classes that the config names more than once', BOTH),
    'class-order-differs': Problem(CATEGORY, "classes of the config in another order than the file's categories", BOTH),
    'category-not-in-config': Problem(
        CATEGORY, 'categories of the annotation file that the config leaves out', notice=True
    ),
    'annotation-malformed': Problem(ANNOTATION, 'annotations that lack a key', BOTH, Fix.DROP_ANNOTATION),
    'missing-iscrowd': Problem(ANNOTATION, 'annotations without iscrowd', EVALUATION, Fix.ADD_ISCROWD),
    'missing-area': Problem(AREA, 'annotations without area', BOTH, Fix.ADD_AREA),
    'missing-box': Problem(BOX, 'annotations without bbox', BOTH, Fix.ADD_BOX),
    'bad-iscrowd': Problem(ANNOTATION, 'annotations whose iscrowd is neither 0 nor 1', EVALUATION, Fix.DROP_ANNOTATION),
    'duplicate-annotation-id': Problem(ANNOTATION, 'annotation ids used more than once', BOTH, Fix.NEW_ID),
    'uncountable-annotation-id': Problem(
        ANNOTATION, 'annotation ids that are not positive numbers, which some programs count wrong', fix=Fix.NEW_ID
    ),
    'unknown-image': Problem(ANNOTATION, 'annotations of an image that is not listed', fix=Fix.DROP_ANNOTATION),
    'unknown-category': Problem(ANNOTATION, 'annotations of a category that is not listed', fix=Fix.DROP_ANNOTATION),
    'category-ids-as-text': Problem(
        ANNOTATION,
        "annotations whose category id is a text where the file's categories have numbers, or vice versa",
        BOTH,
        remedy='write the category ids of both as numbers',
    ),
    'category-ids-shifted': Problem(
        ANNOTATION,
        "annotations of a category that is not listed, just beside the file's ids: annotations and categories count "
        'from 0 and from 1, so that all other annotations have a wrong class',
        BOTH,
        remedy='number categories and annotations alike',
    ),
    'many-unknown-categories': Problem(
        ANNOTATION,
        'annotations, a large share of the file, of a category that is not listed',
        BOTH,
        remedy='list all categories in the file, or correct the ids',
    ),
    'crowd-with-polygons': Problem(ANNOTATION, 'crowd regions given as polygons instead of RLE', notice=True),
    'malformed-box': Problem(BOX, 'boxes that are not four numbers', BOTH, Fix.REPLACE_BOX),
    'non-finite-box': Problem(BOX, 'boxes with NaN or infinite numbers', BOTH, Fix.REPLACE_BOX),
    'empty-box': Problem(
        BOX, 'boxes of zero or negative width or height (training skips them)', fix=Fix.REPLACE_BOX, hides_mask=True
    ),
    'sub-pixel-box': Problem(BOX, 'boxes narrower or lower than a pixel (training skips them)', hides_mask=True),
    'box-outside-image': Problem(
        BOX, 'boxes entirely outside their image (training skips them)', fix=Fix.REPLACE_BOX, hides_mask=True
    ),
    'box-over-border': Problem(BOX, 'boxes that reach over the border by more than a pixel', fix=Fix.CLIP_BOX),
    'bad-area': Problem(AREA, 'areas that are not a finite number', BOTH, Fix.REPLACE_AREA),
    'zero-area': Problem(AREA, 'areas of zero or less (training skips them)', fix=Fix.REPLACE_AREA, hides_mask=True),
    'missing-mask': Problem(MASK, 'annotations without a mask', BOTH, Fix.DROP_ANNOTATION),
    'malformed-mask': Problem(
        MASK, 'masks that are neither a list of polygons nor an RLE of COCO', BOTH, Fix.DROP_ANNOTATION
    ),
    'odd-polygon': Problem(
        MASK, 'polygons with an odd number of coordinates (training skips them)', fix=Fix.DROP_POLYGON
    ),
    'short-polygon': Problem(
        MASK, 'polygons of fewer than 3 points (training skips them)', EVALUATION, Fix.DROP_POLYGON
    ),
    'non-finite-polygon': Problem(
        MASK, 'polygons with NaN, infinite or absurdly large numbers (rasterising never ends)', BOTH, Fix.DROP_POLYGON
    ),
    'polygon-outside-image': Problem(MASK, 'polygons entirely outside their image', fix=Fix.DROP_POLYGON),
    'rle-size-mismatch': Problem(MASK, 'RLE masks of another size than their image', BOTH, Fix.DROP_ANNOTATION),
    'undecodable-rle': Problem(MASK, 'RLE masks that cannot be decoded', BOTH, Fix.DROP_ANNOTATION),
    'empty-mask': Problem(MASK, 'masks without a pixel', fix=Fix.DROP_ANNOTATION),
    'rle-object': Problem(
        MASK,
        'objects whose mask is an RLE, which a pipeline of polygons (poly2mask=False) turns into background',
        TRAINING,
        remedy='set --cfg-options {poly2mask}=True, which learns all masks as bitmaps',
    ),
    'category-kind-unknown': Problem(CATEGORY, 'categories of the panoptic file without isthing', BOTH),
    'category-kind-differs': Problem(
        CATEGORY,
        'categories of the panoptic file that are things there and stuff in the config, or vice versa',
        BOTH,
        remedy="correct the thing_classes and stuff_classes of the data set's metainfo",
    ),
    'panoptic-entry-malformed': Problem(
        SEGMENT, 'panoptic annotations that lack a key, or have a segment that lacks one', BOTH
    ),
    'duplicate-panoptic-entry': Problem(SEGMENT, 'images with several panoptic annotations', BOTH),
    'missing-panoptic-entry': Problem(SEGMENT, 'images without a panoptic annotation', BOTH),
    'unknown-segment-category': Problem(SEGMENT, 'segments of a category that is not listed', BOTH),
    'impossible-segment-id': Problem(SEGMENT, 'segments whose id no colour of a PNG can have', BOTH),
    'duplicate-segment-id': Problem(SEGMENT, 'images with a segment id used more than once', BOTH),
    'missing-png': Problem(SEGMENT, 'panoptic PNG files that do not exist', BOTH, remedy='complete the folder'),
    'undecodable-png': Problem(SEGMENT, 'panoptic PNG files that cannot be decoded', BOTH, remedy='replace the file'),
    'png-size-mismatch': Problem(
        SEGMENT, 'panoptic PNG files of another size than their image', BOTH, remedy='replace the file'
    ),
    'colour-without-segment': Problem(
        SEGMENT, 'panoptic PNG files with a colour that is no id of their segments', BOTH, remedy=_TAKE_BOTH
    ),
    'empty-segment': Problem(SEGMENT, 'segments without a pixel in their panoptic PNG', EVALUATION, remedy=_TAKE_BOTH),
}


class ProblemTally:
    """Counts problems by kind and keeps the first ``max_examples`` of each."""

    def __init__(self, max_examples: int = 5) -> None:
        self.max_examples = max_examples
        self.counts: dict[str, int] = {}
        self.examples: dict[str, list[str]] = {}

    def add(self, kind: str, example: str) -> None:
        """Count one problem: a key of ``PROBLEM_KINDS``, and what has it, such as ``annotation 7`` or a file name."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        examples = self.examples.setdefault(kind, [])
        if len(examples) < self.max_examples:
            examples.append(example)

    def add_all(self, problems: Iterable[tuple[str, str]]) -> None:
        """Count problems that are pairs of kind and example."""
        for kind, example in problems:
            self.add(kind, example)

    def describe(self, kind: str) -> str:
        """Return one phrase about the problems of a kind: how many, what, and the first of them."""
        return f'{self.counts[kind]} {PROBLEM_KINDS[kind].meaning}, e.g. {self.examples[kind][0]}'

    def refuse(self, evaluated: bool, file: str, options: str, poly2mask: str | None = None) -> None:
        """Raise an :class:`InputError` if a problem stops an evaluation, or else a training.

        ``file`` is the annotation file as the message names it, and ``options`` those that name another one.
        """
        stopped = Stops.EVALUATION if evaluated else Stops.TRAINING
        for kind, entry in PROBLEM_KINDS.items():
            if kind in self.counts and stopped in entry.stops:
                repair = f"run '{REPAIR}', which repairs it in a copy"
                remedy = repair if entry.fix else entry.remedy.format(poly2mask=poly2mask)
                raise InputError(
                    f'{file}: {self.describe(kind)}: {remedy}, or name another file with --cfg-options {options}'
                )

    def log(self, option: str) -> None:
        """Log all problems of the data set at ``option`` in one line, if there are any."""
        if self.counts:
            # It imports PyTorch, which the check of a folder does without.
            from mmengine.logging import print_log

            found = '; '.join(map(self.describe, self.counts))
            print_log(f'{option}: {found}. None of this stops a run; {FULL_CHECK} lists it.', logger='current')

    def as_rows(self) -> list[dict]:
        """Return the problems in the order of ``PROBLEM_KINDS``, as mappings that JSON can hold."""
        return [
            dict(
                kind=kind,
                count=self.counts[kind],
                meaning=entry.meaning,
                stops_training=Stops.TRAINING in entry.stops,
                stops_evaluation=Stops.EVALUATION in entry.stops,
                fix=entry.fix.value if entry.fix else '',
                examples=self.examples[kind],
            )
            for kind, entry in PROBLEM_KINDS.items()
            if kind in self.counts
        ]
