"""Repair of annotation files in COCO's format."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from pycocotools import mask as mask_api

from ..datasets.annotation_problems import (
    annotation_problems,
    is_countable_id,
    polygon_problem,
    usable_category_ids,
    usable_images,
)
from ..errors import InputError
from ..fileio import atomic_write
from .problem_kinds import PROBLEM_KINDS, Fix


def repair_coco(
    content: dict, bad_images: Mapping, with_masks: bool = True, boxes_suffice: bool = False
) -> tuple[dict, dict[str, int]]:
    """Remove or repair the problems of an annotation file, as ``PROBLEM_KINDS`` says for each kind.

    Categories are left as they are: only a person knows what a double name means. ``content`` is not changed.

    Args:
        content: Content of an annotation file.
        bad_images: Kind of problem by image id, of images whose file cannot be used.
        with_masks: Whether masks count; without them broken boxes cannot be repaired and are removed.
        boxes_suffice: Whether objects stay that have a box and no mask.

    Returns:
        The repaired content, and the number of repairs by description.
    """
    done: Counter = Counter()
    images, problems = usable_images(content['images'])
    for kind in _with_fix((kind for kind, _ in problems), Fix.DROP_IMAGE, Fix.DROP_LATER_IMAGE):
        done[f'images removed: {kind}'] += 1
    for image_id, kind in bad_images.items():
        done[f'images removed: {kind}'] += 1
        del images[image_id]

    category_ids = usable_category_ids(content['categories'])
    # By the id in the file.
    first: dict = {}
    kept = []
    ids = [a['id'] for a in content['annotations'] if isinstance(a, dict) and type(a.get('id')) is int]
    free_id = max([0, *ids]) + 1
    for original in content['annotations']:
        no_mask = boxes_suffice and isinstance(original, dict) and not original.get('segmentation')
        annotation = _repaired(original, images, category_ids, with_masks and not no_mask, done)
        if annotation is None:
            continue
        known = first.setdefault(annotation['id'], annotation)
        if known is not annotation and known == annotation:
            done['annotations removed: duplicate-annotation-id, the same again'] += 1
            continue
        kind = 'duplicate-annotation-id' if known is not annotation else 'uncountable-annotation-id'
        if known is not annotation or not is_countable_id(annotation['id']):
            done[f'annotations repaired: {kind}'] += 1
            annotation = dict(annotation, id=free_id)
            free_id += 1
        kept.append(annotation)
    return dict(content, images=list(images.values()), annotations=kept), dict(done)


def _with_fix(problems: Iterable[str], *fixes: Fix) -> list[str]:
    return [kind for kind in problems if PROBLEM_KINDS[kind].fix in fixes]


def _repaired(original: Any, images: dict, category_ids: Collection, with_masks: bool, done: Counter) -> dict | None:
    """A repaired copy of an annotation, or None to remove it; counts each repair in ``done``."""
    problems = annotation_problems(original, images, category_ids, with_masks, decode=True)
    if not problems:
        return original
    removed = next(iter(_with_fix(problems, Fix.DROP_ANNOTATION)), None)
    if removed is None:
        annotation, image = dict(original), images[original['image_id']]
        for kind in _with_fix(problems, Fix.ADD_ISCROWD):
            annotation['iscrowd'] = 0
            done[f'annotations repaired: {kind}'] += 1
        removed = _repair_polygons(annotation, image, problems, done) or _repair_box_and_area(
            annotation, image, problems, with_masks, done
        )
    if removed is not None:
        done[f'annotations removed: {removed}'] += 1
        return None
    return annotation


def _repair_polygons(annotation: dict, image: dict, problems: Sequence[str], done: Counter) -> str | None:
    """Drop the broken polygons of an annotation; if none is left, return why it is to be removed."""
    if not _with_fix(problems, Fix.DROP_POLYGON):
        return None
    kinds = [polygon_problem(polygon, image) for polygon in annotation['segmentation']]
    done.update(f'polygons removed: {kind}' for kind in kinds if kind is not None)
    annotation['segmentation'] = [p for p, kind in zip(annotation['segmentation'], kinds) if kind is None]
    return None if annotation['segmentation'] else 'last polygon was broken'


def _repair_box_and_area(
    annotation: dict, image: dict, problems: Sequence[str], with_masks: bool, done: Counter
) -> str | None:
    """Take broken box and area from the mask, and clip the box; if there is no mask, return why it is to be removed."""
    boxes = _with_fix(problems, Fix.ADD_BOX, Fix.REPLACE_BOX)
    areas = _with_fix(problems, Fix.ADD_AREA, Fix.REPLACE_AREA)
    if boxes or areas:
        if not with_masks:
            return (boxes + areas)[0]
        mask = _encoded(annotation['segmentation'], image)
        area = int(mask_api.area(mask))
        if area == 0:
            return 'empty-mask'
        if boxes:
            annotation['bbox'] = mask_api.toBbox(mask).tolist()
        if areas:
            annotation['area'] = area
    clipped = _with_fix(problems, Fix.CLIP_BOX)
    if clipped:
        annotation['bbox'] = _clipped(annotation['bbox'], image)
    done.update(f'annotations repaired: {kind}' for kind in (*boxes[:1], *areas[:1], *clipped))
    return None


def _encoded(mask: Any, image: dict) -> dict:
    height, width = int(image['height']), int(image['width'])
    if isinstance(mask, list):
        return mask_api.merge(mask_api.frPyObjects(mask, height, width))
    return mask_api.frPyObjects(mask, height, width) if isinstance(mask['counts'], list) else mask


def _clipped(box: Sequence[float], image: dict) -> list[float]:
    x, y, width, height = box
    right, bottom = min(x + width, image['width']), min(y + height, image['height'])
    x, y = max(x, 0), max(y, 0)
    return [x, y, right - x, bottom - y]


def write_coco(content: dict, path: str, sources: Sequence[str]) -> None:
    """Write an annotation file atomically; ``sources`` are files that must not be replaced."""
    for source in sources:
        if os.path.exists(path) and os.path.samefile(path, source):
            raise InputError(f"'{path}' is the annotation file itself, which stays as it is: name another file")
    is_new = not os.path.exists(path)
    try:
        with atomic_write(path, 'w') as file:
            if is_new:
                # A private file stays private in the copy.
                shutil.copymode(sources[0], file.name)
            # NaN stays where nobody reads it, such as in the licence of an image.
            json.dump(content, file)
    except OSError as error:
        raise InputError(
            f"'{path}' cannot be written ({error.strerror}): name a file in a folder with room and rights"
        ) from error
