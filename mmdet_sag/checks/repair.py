"""Repair of annotation files in COCO's format."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from pycocotools import mask as mask_api

from ..datasets.annotation_problems import annotation_problems, polygon_problem, usable_category_ids, usable_images
from ..errors import InputError
from ..fileio import atomic_write
from .problem_kinds import PROBLEM_KINDS, Fix


def _with_fix(problems: Iterable[str], *fixes: Fix) -> list[str]:
    return [kind for kind in problems if PROBLEM_KINDS[kind].fix in fixes]


def _encoded(mask: Any, image: dict) -> dict:
    height, width = int(image['height']), int(image['width'])
    if isinstance(mask, list):
        return mask_api.merge(mask_api.frPyObjects(mask, height, width))
    if isinstance(mask['counts'], list):
        return mask_api.frPyObjects(mask, height, width)
    return dict(size=mask['size'], counts=mask['counts'].encode())


def _clipped(box: Sequence[float], image: dict) -> list[float]:
    x, y, width, height = box
    right, bottom = min(x + width, image['width']), min(y + height, image['height'])
    x, y = max(x, 0), max(y, 0)
    return [x, y, right - x, bottom - y]


def _repaired(
    annotation: dict, images: Mapping, category_ids: Collection, with_masks: bool, done: Counter
) -> dict | None:
    """A repaired copy of an annotation, or None if it has to go; counts each repair in ``done``."""
    problems = annotation_problems(annotation, images, category_ids, with_masks, decode=True)
    fatal = _with_fix(problems, Fix.DROP_ANNOTATION)
    if fatal:
        done[f'annotations removed: {fatal[0]}'] += 1
        return None
    if not problems:
        return annotation

    annotation = dict(annotation)
    image = images[annotation['image_id']]
    for kind in _with_fix(problems, Fix.ADD_ISCROWD):
        annotation['iscrowd'] = 0
        done[f'annotations repaired: {kind}'] += 1
    if _with_fix(problems, Fix.DROP_POLYGON):
        kept = []
        for polygon in annotation['segmentation']:
            kind = polygon_problem(polygon, image)
            if kind is None:
                kept.append(polygon)
            else:
                done[f'polygons removed: {kind}'] += 1
        if not kept:
            done['annotations removed: last polygon was broken'] += 1
            return None
        annotation['segmentation'] = kept

    broken_box = _with_fix(problems, Fix.ADD_BOX, Fix.REPLACE_BOX)
    broken_area = _with_fix(problems, Fix.ADD_AREA, Fix.REPLACE_AREA)
    if broken_box or broken_area:
        if not with_masks:
            done[f'annotations removed: {(broken_box + broken_area)[0]}'] += 1
            return None
        encoded = _encoded(annotation['segmentation'], image)
        area = int(mask_api.area(encoded))
        if area == 0:
            done['annotations removed: empty-mask'] += 1
            return None
        if broken_box:
            annotation['bbox'] = mask_api.toBbox(encoded).tolist()
            done[f'annotations repaired: {broken_box[0]}'] += 1
        if broken_area:
            annotation['area'] = area
            done[f'annotations repaired: {broken_area[0]}'] += 1
    for kind in _with_fix(problems, Fix.CLIP_BOX):
        annotation['bbox'] = _clipped(annotation['bbox'], image)
        done[f'annotations repaired: {kind}'] += 1
    return annotation


def repair_coco(content: dict, bad_images: Mapping, with_masks: bool = True) -> tuple[dict, dict[str, int]]:
    """Removes or repairs what a check found, as ``PROBLEM_KINDS`` says for each kind.

    Categories are left as they are: only a person knows what a double name means.

    Args:
        content: Content of an annotation file; it is not changed.
        bad_images: Kind of problem by image id, of images whose file cannot be used.
        with_masks: Whether masks count; without them broken boxes cannot be repaired and are removed.

    Returns:
        The repaired content, and how often each thing was done.
    """
    done: Counter = Counter()
    images, problems = usable_images(content['images'])
    for kind in _with_fix((kind for kind, _ in problems), Fix.DROP_IMAGE, Fix.DROP_LATER_IMAGE):
        done[f'images removed: {kind}'] += 1
    for image_id, kind in bad_images.items():
        done[f'images removed: {kind}'] += 1
        del images[image_id]

    category_ids = usable_category_ids(content['categories'])
    kept: dict = {}
    taken = [a['id'] for a in content['annotations'] if isinstance(a, dict) and type(a.get('id')) is int]
    free_id = max(taken, default=0) + 1
    for original in content['annotations']:
        annotation = _repaired(original, images, category_ids, with_masks, done)
        if annotation is None:
            continue
        if annotation['id'] in kept:
            if kept[annotation['id']] == annotation:
                done['annotations removed: duplicate-annotation-id, the same again'] += 1
                continue
            annotation = dict(annotation, id=free_id)
            free_id += 1
            done['annotations repaired: duplicate-annotation-id'] += 1
        kept[annotation['id']] = annotation
    return dict(content, images=list(images.values()), annotations=list(kept.values())), dict(done)


def write_coco(content: dict, path: str, sources: Sequence[str]) -> None:
    """Writes an annotation file atomically.

    Args:
        content: Content of the file.
        path: File to write; if it exists it is replaced at the end.
        sources: Files that must not be replaced.

    Raises:
        InputError: The path is one of the sources, or cannot be written.
    """
    for source in sources:
        if os.path.realpath(path) == os.path.realpath(source) or (
            os.path.exists(path) and os.path.samefile(path, source)
        ):
            raise InputError(f"'{path}' is the annotation file itself, which stays as it is: name another file")
    is_new = not os.path.exists(path)
    try:
        with atomic_write(path, 'w') as file:
            if is_new:
                # What is private stays so in the copy.
                shutil.copymode(sources[0], file.name)
            json.dump(content, file, allow_nan=False)
    except (OSError, ValueError) as error:
        reason = getattr(error, 'strerror', None) or error
        raise InputError(
            f"'{path}' cannot be written ({reason}): name a file in a folder with room and rights"
        ) from error
