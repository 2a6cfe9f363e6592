"""Checks of a data set in COCO's format: of its annotation file, and before a run, without decoding images."""

import os
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from functools import partial

from ..datasets.annotation_problems import (
    annotation_problems,
    category_id_problem,
    category_problems,
    usable_category_ids,
    usable_images,
)
from ..datasets.coco_source import CocoSource
from ..errors import InputError
from .images import header_problem, missing_images
from .problem_kinds import PROBLEM_KINDS, REPAIR, ProblemTally, Subject

_SAMPLED_HEADERS = 16
# Decoding all compressed masks can take minutes; one program writes them all, and mostly all wrong.
_SAMPLED_MASKS = 500
_MASK_KINDS = {kind for kind, problem in PROBLEM_KINDS.items() if problem.subject is Subject.MASK}


def checked_annotations(
    content: dict,
    images: dict,
    tally: ProblemTally,
    masks_needed: bool = True,
    polygons_only: bool = False,
    num_decoded: int | None = None,
) -> Iterator[tuple[dict, list[str]]]:
    """Yield the annotations of a file that have their ids, each with its kinds of problem, for the caller to count.

    ``images`` are the usable image entries by id. ``tally`` gets malformed annotations, repeated ids, and mistakes in
    the category ids of all. ``polygons_only``: training reads only polygons. ``num_decoded`` annotations, spread over
    the file, have their compressed masks decoded; None: all.
    """
    entries = content['annotations']
    category_ids = usable_category_ids(content['categories'])
    step = 1 if num_decoded is None else max(1, len(entries) // num_decoded)
    seen = set()
    used: Counter = Counter()
    strays = []
    for index, annotation in enumerate(entries):
        problems = annotation_problems(
            annotation, images, category_ids, masks_needed, decode=index % step == 0, polygons_only=polygons_only
        )
        if 'annotation-malformed' in problems:
            tally.add('annotation-malformed', f'entry {index}')
            continue
        if annotation['id'] in seen:
            tally.add('duplicate-annotation-id', f'annotation {annotation["id"]}')
        seen.add(annotation['id'])
        used[annotation['category_id']] += 1
        if 'unknown-category' in problems:
            strays.append(annotation['id'])
        yield annotation, problems
    if mistake := category_id_problem(used, category_ids):
        tally.add_all((mistake, f'annotation {stray}') for stray in strays)


def check_data(
    source: CocoSource, content: dict, evaluated: bool, labels_needed: bool, mask_metrics: Sequence[str]
) -> list[dict]:
    """Check a data set in COCO's format before a run, and return the image entries that it uses.

    What the run skips becomes one line of the log. If it is not ``evaluated``, the run learns from it. ``mask_metrics``
    are the places in the config of the metrics that measure masks.
    """
    masks_needed = bool((source.loads_masks and not source.boxes_only) or mask_metrics)
    tally = ProblemTally()
    file, options = f"annotation file '{source.ann_file}'", f'{source.option}.ann_file=FILE'
    refuse = partial(tally.refuse, evaluated, file, options, source.poly2mask)
    _check_categories(source, content['categories'], tally)
    refuse()
    images, problems = usable_images(content['images'])
    tally.add_all(problems)
    if not content['images']:
        raise InputError(
            f"data set is empty: '{source.ann_file}' lists no images: name another file with --cfg-options {options}"
        )
    polygons_only = source.polygons_only and not evaluated
    annotations = checked_annotations(content, images, tally, masks_needed, polygons_only, _SAMPLED_MASKS)
    class_ids = {category['id'] for category in content['categories'] if category['name'] in source.classes}
    if source.boxes_suffice and not mask_metrics:
        annotations = ((item, [kind for kind in problems if kind != 'missing-mask']) for item, problems in annotations)
    with_class, with_object = _count_annotations(annotations, class_ids, tally, evaluated, masks_needed)
    if 'missing-mask' in tally.counts:
        raise InputError(
            f'{file}: {tally.describe("missing-mask")}: {_remedy_for_missing_masks(source, evaluated, mask_metrics)}'
        )
    refuse()
    used = _used_images(source, list(images.values()), with_class)
    if labels_needed and with_object.isdisjoint(image['id'] for image in used):
        raise InputError(
            f"data set is empty: none of the {len(content['annotations'])} annotations of '{source.ann_file}' is an "
            f'object of the {len(source.classes)} classes that could be learnt or found (crowd regions, empty boxes '
            f'and broken masks do not count): name another file with --cfg-options {options}'
        )
    _check_image_files(source, used, tally)
    tally.log(source.option)
    return used


def _remedy_for_missing_masks(source: CocoSource, evaluated: bool, mask_metrics: Sequence[str]) -> str:
    loading = f'{source.poly2mask.rpartition(".")[0]}.type=LoadMaskOrBoxAnnotations' if source.poly2mask else ''
    if evaluated:
        options = ' '.join([*(f'{metric}.metric=bbox' for metric in mask_metrics), loading]).strip()
        return f'measure the boxes alone with --cfg-options {options}'
    return (
        "run 'mmdet-sag make-config', whose config learns these masks from the boxes, as configs/box_supervised does, "
        f"or '{REPAIR}', which leaves the objects out in a copy"
    )


def _check_categories(source: CocoSource, categories: list, tally: ProblemTally) -> None:
    problems = category_problems(categories, source.classes)
    tally.add_all(problems)
    absent = [example.strip("'") for kind, example in problems if kind == 'class-not-in-file']
    if absent:
        names = [category.get('name') for category in categories if isinstance(category, dict)]
        raise InputError(
            f"annotation file '{source.ann_file}' has no class {_listed(absent, 3)} ({len(absent)} of the "
            f'{len(source.classes)} classes of {source.option}); it has {_listed(names, 8)}: set --cfg-options '
            f'"{source.option}.metainfo.classes=[{_listed(names, 20)}]", the same in every data set, '
            "and the heads' num_classes to their number"
        )
    if 'duplicate-class' in tally.counts:
        raise InputError(
            f'{source.option}.metainfo.classes names {", ".join(tally.examples["duplicate-class"])} more than once: '
            "name each class once, and set the heads' num_classes to their number"
        )
    if 'class-order-differs' in tally.counts:
        raise InputError(
            f"{source.option}.metainfo.classes has another order than the categories of '{source.ann_file}' "
            f"({tally.examples['class-order-differs'][0]}), which MMDetection numbers in the file's order: list them "
            "in the file's order, the same in every data set"
        )


def _listed(names: Sequence[str | None], limit: int) -> str:
    return ', '.join(repr(name) for name in names[:limit]) + (', ...' if len(names) > limit else '')


def _count_annotations(
    annotations: Iterable[tuple[dict, list[str]]],
    class_ids: Container,
    tally: ProblemTally,
    evaluated: bool,
    masks_needed: bool,
) -> tuple[set, set]:
    """Count the problems that matter to a run; return the ids of images with a class to learn, and with an object."""
    with_class, with_object = set(), set()
    for annotation, problems in annotations:
        in_class = annotation['category_id'] in class_ids
        if in_class:
            with_class.add(annotation['image_id'])
        hidden = any(PROBLEM_KINDS[kind].hides_mask for kind in problems)
        skipped = not in_class or bool(annotation.get('ignore', False)) or hidden
        mask_unread = not in_class if evaluated else skipped
        for kind in problems:
            # What is never read does no harm.
            harmless = 'unknown-image' in problems or (mask_unread and kind in _MASK_KINDS)
            if kind in ('unknown-image', 'unknown-category') or not harmless:
                tally.add(kind, f'annotation {annotation["id"]}')
        is_object = not skipped and annotation.get('iscrowd') != 1
        if is_object and (not masks_needed or _has_usable_mask(annotation, problems)):
            with_object.add(annotation['image_id'])
    return with_class, with_object


def _has_usable_mask(annotation: dict, problems: Sequence[str]) -> bool:
    mask = annotation.get('segmentation')
    if isinstance(mask, list) and mask:
        return any(isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in mask)
    return _MASK_KINDS.isdisjoint(problems)


def _used_images(source: CocoSource, images: list[dict], with_class: Container) -> list[dict]:
    """The images of a file that the data set's class keeps."""
    if source.test_mode:
        return images
    min_size = source.filter_cfg.get('min_size', 0)
    if source.filter_cfg.get('filter_empty_gt', False):
        images = [image for image in images if image['id'] in with_class]
    large = [image for image in images if min(image['width'], image['height']) >= min_size]
    if images and not large:
        raise InputError(
            f"data set is empty: all images of '{source.ann_file}' are smaller than {min_size} pixels: set "
            f'--cfg-options {source.option}.filter_cfg.min_size=1'
        )
    return large


def _check_image_files(source: CocoSource, images: list[dict], tally: ProblemTally) -> None:
    source.require_image_folder()
    missing = missing_images(source.image_folder, [image['file_name'] for image in images])
    if missing:
        raise InputError(
            f"{len(missing)} of {len(images)} images of '{source.ann_file}' are not in '{source.image_folder}', e.g. "
            f"'{missing[0]}': complete the folder, name another with --cfg-options "
            f"{source.option}.data_prefix.img=DIR, or run '{REPAIR}', which leaves them out in a copy"
        )
    for image in images[:: max(1, len(images) // _SAMPLED_HEADERS)]:
        path = os.path.join(source.image_folder, image['file_name'])
        problem = header_problem(path, (image['width'], image['height']))
        if problem is not None and PROBLEM_KINDS[problem].notice:
            tally.add(problem, image['file_name'])
        elif problem is not None:
            what = PROBLEM_KINDS[problem].of_one_image.format(width=image['width'], height=image['height'])
            raise InputError(
                f"image '{path}' {what}: replace it, or run '{REPAIR}', which finds all such images and leaves them "
                'out in a copy'
            )
