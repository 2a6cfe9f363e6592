"""Checks of a data set before a run: what would stop or ruin it, in seconds and without decoding an image."""

import os
from collections.abc import Container, Sequence

from mmengine.logging import print_log

from ..datasets.data_sources import CocoSource
from ..errors import InputError
from .annotation_file_check import AnnotationFileCheck
from .images import header_problem, missing_images
from .problem_kinds import PROBLEM_KINDS, Subject
from .problem_tally import ProblemTally

_FULL_CHECK = 'tools/misc/check_dataset.py'
_SAMPLED_HEADERS = 16
# Decoding all compressed masks can take minutes; one writer makes them all, and mostly all wrong.
_SAMPLED_MASKS = 500


def _listed(names: Sequence[str], limit: int = 8) -> str:
    return ', '.join(repr(name) for name in names[:limit]) + (', ...' if len(names) > limit else '')


def _is_hidden_by(problems: Sequence[str]) -> bool:
    return any(PROBLEM_KINDS[kind].hides_mask for kind in problems)


def _concerns_mask(kind: str) -> bool:
    return PROBLEM_KINDS[kind].subject is Subject.MASK


def _has_usable_mask(annotation: dict, problems: Sequence[str]) -> bool:
    mask = annotation.get('segmentation')
    if isinstance(mask, list):
        return any(isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in mask)
    return not any(map(_concerns_mask, problems))


def _check_categories(source: CocoSource, check: AnnotationFileCheck) -> None:
    absent = [example.strip("'") for kind, example in check.check_categories() if kind == 'class-not-in-file']
    tally = check.tally
    if absent:
        names = [category.get('name') for category in check.content['categories'] if isinstance(category, dict)]
        raise InputError(
            f"annotation file '{source.ann_file}' has no class {_listed(absent, 3)} ({len(absent)} of the "
            f'{len(source.classes)} classes of {source.option}); it has {_listed(names)}: set --cfg-options '
            f'"{source.option}.metainfo.classes=[{_listed(names, 20)}]", the same in every data set, '
            "and the heads' num_classes to their number"
        )
    if 'class-order-differs' in tally.counts:
        raise InputError(
            f"{source.option}.metainfo.classes has another order than the categories of '{source.ann_file}' "
            f"({tally.examples['class-order-differs'][0]}), which MMDetection numbers in the file's order: list them "
            "in the file's order, the same in every data set"
        )


def _refuse(source: CocoSource, tally: ProblemTally, evaluated: bool) -> None:
    for kind, entry in PROBLEM_KINDS.items():
        if kind in tally.counts and (entry.stops_evaluation if evaluated else entry.stops_training):
            remedy = (
                f"run '{_FULL_CHECK} CONFIG --fix OUT.json', which repairs it in a copy,"
                if entry.fix
                else entry.remedy.format(poly2mask=source.poly2mask)
            )
            raise InputError(
                f"annotation file '{source.ann_file}': {tally.describe(kind)}: {remedy} or name another file with "
                f'--cfg-options {source.option}.ann_file=FILE'
            )


def _used_images(source: CocoSource, images: list[dict], with_class: Container) -> list[dict]:
    """The images that the data set's class keeps of a file."""
    if not source.test_mode:
        min_size = source.filter_cfg.get('min_size', 0)
        if source.filter_cfg.get('filter_empty_gt', False):
            images = [image for image in images if image['id'] in with_class]
        large = [image for image in images if min(image['width'], image['height']) >= min_size]
        if images and not large:
            raise InputError(
                f"data set is empty: all images of '{source.ann_file}' are smaller than {min_size} pixels: set "
                f'--cfg-options {source.option}.filter_cfg.min_size=1'
            )
        images = large
    return images


def _check_image_files(source: CocoSource, images: list[dict], tally: ProblemTally) -> None:
    source.require_image_folder()
    missing = missing_images(source.image_folder, [image['file_name'] for image in images])
    if missing:
        raise InputError(
            f"{len(missing)} of {len(images)} images of '{source.ann_file}' are not in '{source.image_folder}', e.g. "
            f"'{missing[0]}': complete the folder, name another with --cfg-options "
            f"{source.option}.data_prefix.img=DIR, or run '{_FULL_CHECK} CONFIG --fix OUT.json', which leaves them out "
            'in a copy'
        )
    for image in images[:: max(1, len(images) // _SAMPLED_HEADERS)]:
        path = os.path.join(source.image_folder, image['file_name'])
        problem = header_problem(path, (image['width'], image['height']))
        if problem is not None and PROBLEM_KINDS[problem].notice:
            tally.add(problem, image['file_name'])
        elif problem is not None:
            what = PROBLEM_KINDS[problem].of_one_image.format(width=image['width'], height=image['height'])
            raise InputError(
                f"image '{path}' {what}: replace it, or run '{_FULL_CHECK} CONFIG --fix OUT.json', which finds all "
                'such images and leaves them out in a copy'
            )


def check_data(
    source: CocoSource, content: dict, evaluated: bool, masks_needed: bool, labels_needed: bool
) -> list[dict]:
    """Checks a data set in COCO's format for a run; what the run passes over becomes one line of the log.

    Args:
        source: The data set.
        content: Content of its annotation file.
        evaluated: Whether the run measures on it; else it learns from it.
        masks_needed: Whether the run looks at masks.
        labels_needed: Whether there must be objects.

    Returns:
        The image entries that the data set uses.

    Raises:
        InputError: The data would crash the run, hang it, or silently ruin it.
    """
    tally = ProblemTally()
    polygons_only = source.polygons_only and not evaluated
    check = AnnotationFileCheck(content, source.classes, tally, masks_needed, polygons_only, _SAMPLED_MASKS)
    _check_categories(source, check)
    _refuse(source, tally, evaluated)

    check.check_images()
    if not content['images']:
        raise InputError(
            f"data set is empty: '{source.ann_file}' lists no images: name another file with --cfg-options "
            f'{source.option}.ann_file=FILE'
        )

    class_ids = {category['id'] for category in content['categories'] if category['name'] in source.classes}
    with_class = set()
    usable_on = set()
    for annotation, problems in check.annotations():
        in_class = annotation['category_id'] in class_ids
        if in_class:
            with_class.add(annotation['image_id'])
        skipped = not in_class or bool(annotation.get('ignore', False)) or _is_hidden_by(problems)
        for kind in problems:
            # What is never looked at does no harm.
            harmless = 'unknown-image' in problems or (
                _concerns_mask(kind) and (not in_class if evaluated else skipped)
            )
            if kind in ('unknown-image', 'unknown-category') or not harmless:
                tally.add(kind, f'annotation {annotation["id"]}')
        is_object = not skipped and annotation.get('iscrowd') != 1
        if is_object and (not masks_needed or _has_usable_mask(annotation, problems)):
            usable_on.add(annotation['image_id'])
    _refuse(source, tally, evaluated)

    used = _used_images(source, list(check.images.values()), with_class)
    if labels_needed and usable_on.isdisjoint(image['id'] for image in used):
        raise InputError(
            f"data set is empty: none of the {len(content['annotations'])} annotations of '{source.ann_file}' is an "
            f'object of the {len(source.classes)} classes that could be learnt or found (crowd regions, empty boxes '
            f'and broken masks do not count): name another file with --cfg-options {source.option}.ann_file=FILE'
        )
    _check_image_files(source, used, tally)
    if tally:
        print_log(
            f'{source.option}: {"; ".join(tally.describe(kind) for kind in tally.counts)}. Nothing of this stops '
            f'a run; {_FULL_CHECK} lists it.',
            logger='current',
        )
    return used
