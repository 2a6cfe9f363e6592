"""Checks of panoptic annotations: the file of segments, and the PNG files that hold their pixels."""

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ..datasets.annotation_problems import category_problems, usable_category_ids
from ..datasets.panoptic_png import read_segment_ids
from ..datasets.panoptic_source import PanopticSource
from .images import header_problem, missing_images

# What three channels of a PNG can hold; 0 is no segment.
_LARGEST_ID = 256**3 - 1


def category_kind_problems(categories: list, source: PanopticSource) -> Iterator[tuple[str, str]]:
    """Problems of the file's categories, and of the config's classes against them, as pairs of kind and example."""
    for kind, example in category_problems(categories, source.thing_classes + source.stuff_classes):
        # Labels of segments go by name.
        if kind != 'class-order-differs':
            yield kind, example
    things = set(source.thing_classes)
    for category in categories:
        if isinstance(category, dict) and category.get('name') in source.thing_classes + source.stuff_classes:
            if 'isthing' not in category:
                yield 'category-kind-unknown', f"category '{category['name']}'"
            elif bool(category['isthing']) != (category['name'] in things):
                yield 'category-kind-differs', f"category '{category['name']}'"


def is_usable_entry(entry: Any) -> bool:
    """Whether an annotation of the file names its image and PNG and lists segments with what is read of them."""
    return (
        isinstance(entry, dict)
        and isinstance(entry.get('image_id'), (int, str))
        and isinstance(entry.get('file_name'), str)
        and isinstance(entry.get('segments_info'), list)
        and all(
            isinstance(segment, dict) and all(type(segment.get(key)) is int for key in ('id', 'category_id', 'area'))
            for segment in entry['segments_info']
        )
    )


def segment_problems(content: Mapping, images: Mapping) -> Iterator[tuple[str, str]]:
    """Problems of the segments of a panoptic file, without their pixels.

    Args:
        content: Content of the file.
        images: Image entries of the data set by id.

    Yields:
        Pairs of kind and example.
    """
    category_ids = usable_category_ids(content['categories'])
    seen = set()
    for index, entry in enumerate(content['annotations']):
        if not is_usable_entry(entry):
            yield 'panoptic-entry-malformed', f'entry {index}'
            continue
        if entry['image_id'] in seen:
            yield 'duplicate-panoptic-entry', f'image {entry["image_id"]}'
        seen.add(entry['image_id'])
        ids = [segment['id'] for segment in entry['segments_info']]
        for segment in entry['segments_info']:
            place = f'segment {segment["id"]} of image {entry["image_id"]}'
            if segment['category_id'] not in category_ids:
                yield 'unknown-segment-category', place
            if not 0 < segment['id'] <= _LARGEST_ID:
                yield 'impossible-segment-id', place
        if len(set(ids)) < len(ids):
            yield 'duplicate-segment-id', f'image {entry["image_id"]}'
    for image_id in images:
        if image_id not in seen:
            yield 'missing-panoptic-entry', f'image {image_id}'


def missing_png_problems(source: PanopticSource, entries: Iterable[dict]) -> Iterator[tuple[str, str]]:
    """PNG files that entries name and that do not exist, as pairs of kind and file name."""
    for file_name in missing_images(source.png_folder, [entry['file_name'] for entry in entries]):
        yield 'missing-png', file_name


def png_problems(source: PanopticSource, entry: dict, image: dict) -> list[tuple[str, str]]:
    """Problems of a PNG file that exists, against its entry, as pairs of kind and example.

    Args:
        source: The data set's panoptic annotations.
        entry: Entry of the panoptic file.
        image: Entry of its image.
    """
    path = os.path.join(source.png_folder, entry['file_name'])
    problem = header_problem(path, (image['width'], image['height']))
    if problem is not None:
        kind = 'undecodable-png' if problem == 'undecodable-image' else 'png-size-mismatch'
        return [(kind, entry['file_name'])]
    try:
        ids = set(np.unique(read_segment_ids(path)).tolist()) - {0}
    except (OSError, ValueError, AttributeError):
        return [('undecodable-png', entry['file_name'])]
    listed = {segment['id'] for segment in entry['segments_info']}
    problems = []
    if strange := sorted(ids - listed):
        problems.append(('colour-without-segment', f'{strange[0]} in {entry["file_name"]}'))
    problems += [('empty-segment', f'segment {i} of {entry["file_name"]}') for i in sorted(listed - ids)]
    return problems
