"""Labelled and unlabelled parts of a data set in COCO's format."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from ..errors import InputError


class SemiSplit(NamedTuple):
    """Contents of two annotation files; the unlabelled one keeps its labels, which no training reads."""

    labelled: dict
    unlabelled: dict


def drawn_split(content: dict, percent: float, fold: int) -> SemiSplit:
    """Split all images as MMDetection's ``split_coco.py`` does.

    Args:
        content: Content of an annotation file.
        percent: Share of the labelled images. They are drawn with replacement, so that there are fewer.
        fold: Seed of the draw.

    Raises:
        InputError: The share is less than one image.
    """
    images = content['images']
    num_drawn = int(percent / 100.0 * len(images))
    if num_drawn == 0:
        raise InputError(f'{percent:g} % of {len(images)} images is none: give a larger share')
    drawn = np.random.RandomState(fold).choice(range(len(images)), size=num_drawn)
    return _split(content, images, set(drawn.tolist()), with_crowd=True)


def listed_split(content: dict, positions: Sequence[int]) -> SemiSplit:
    """Split the images with objects at published positions.

    Args:
        content: Content of an annotation file.
        positions: Places of the labelled images among the images that have an object which is no crowd, by id. The
            others are in no part, and crowds are no labels.

    Raises:
        InputError: A position is beyond the images, or there is none.
    """
    with_object = {annotation['image_id'] for annotation in content['annotations'] if not annotation.get('iscrowd')}
    images = sorted((image for image in content['images'] if image['id'] in with_object), key=lambda image: image['id'])
    if not positions or not 0 <= min(positions) <= max(positions) < len(images):
        raise InputError(
            f'the positions are not places of the {len(images)} images with objects: give the annotation file that '
            'they are for'
        )
    return _split(content, images, set(positions), with_crowd=False)


def _split(content: dict, images: Sequence[dict], labelled: Collection[int], with_crowd: bool) -> SemiSplit:
    parts = [], []
    for index, image in enumerate(images):
        parts[index not in labelled].append(image)
    contents = []
    for part in parts:
        ids = {image['id'] for image in part}
        annotations = [
            annotation
            for annotation in content['annotations']
            if annotation['image_id'] in ids and (with_crowd or not annotation.get('iscrowd'))
        ]
        contents.append({**content, 'images': part, 'annotations': annotations})
    return SemiSplit(*contents)
