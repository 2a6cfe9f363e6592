"""Checks of panoptic annotations: the file of segments, and the PNG files that hold their pixels."""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from tqdm import tqdm

from ..datasets.annotation_problems import category_problems, usable_category_ids
from ..datasets.coco_instance_panoptic import read_segment_ids
from ..datasets.coco_source import PanopticSource, missing
from .images import header_problem, missing_images
from .problem_kinds import ProblemTally

_SAMPLED_PNGS = 16
# The largest number in three channels of a PNG; 0 is no segment.
_LARGEST_ID = 256**3 - 1


def check_panoptic_data(source: PanopticSource, content: dict, images: Sequence[dict], evaluated: bool) -> None:
    """Check a data set's panoptic file and the PNG files of ``images``, some of which are decoded, before a run."""
    tally = ProblemTally()
    options = f'{source.option}.panoptic_ann_file=FILE {source.option}.data_prefix.seg=DIR'
    refuse = partial(tally.refuse, evaluated, f"panoptic file '{source.panoptic_ann_file}'", options)
    by_id = {image['id']: image for image in images}
    tally.add_all(panoptic_file_problems(source, content, by_id))
    refuse()
    if not os.path.isdir(source.png_folder):
        raise missing('folder of panoptic PNG files', source.png_folder, f'{source.option}.data_prefix.seg=DIR')
    tally.add_all(png_problems(source, content, by_id, num_sampled=_SAMPLED_PNGS))
    refuse()
    tally.log(source.option)


def panoptic_file_problems(source: PanopticSource, content: dict, images: Mapping) -> Iterator[tuple[str, str]]:
    """Yield the problems of a panoptic file with examples; ``images`` are the image entries of the data set by id."""
    yield from _category_problems(content['categories'], source)
    category_ids = usable_category_ids(content['categories'])
    seen = set()
    for index, entry in enumerate(content['annotations']):
        if not _is_usable_entry(entry):
            yield 'panoptic-entry-malformed', f'entry {index}'
            continue
        image = f'image {entry["image_id"]}'
        if entry['image_id'] in seen:
            yield 'duplicate-panoptic-entry', image
        seen.add(entry['image_id'])
        ids = [segment['id'] for segment in entry['segments_info']]
        for segment in entry['segments_info']:
            if segment['category_id'] not in category_ids:
                yield 'unknown-segment-category', f'segment {segment["id"]} of {image}'
            if not 0 < segment['id'] <= _LARGEST_ID:
                yield 'impossible-segment-id', f'segment {segment["id"]} of {image}'
        if len(set(ids)) < len(ids):
            yield 'duplicate-segment-id', image
    for image_id in images:
        if image_id not in seen:
            yield 'missing-panoptic-entry', f'image {image_id}'


def _category_problems(categories: list, source: PanopticSource) -> Iterator[tuple[str, str]]:
    classes = source.classes + source.stuff_classes
    for kind, example in category_problems(categories, classes):
        # Labels of segments go by name.
        if kind != 'class-order-differs':
            yield kind, example
    for category in categories:
        if isinstance(category, dict) and category.get('name') in classes:
            if 'isthing' not in category:
                yield 'category-kind-unknown', f"category '{category['name']}'"
            elif bool(category['isthing']) != (category['name'] in source.classes):
                yield 'category-kind-differs', f"category '{category['name']}'"


def _is_usable_entry(entry: Any) -> bool:
    """Whether an annotation of the file names its image and PNG, and its segments have what is read of them."""
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


def png_problems(
    source: PanopticSource, content: dict, images: Mapping, num_sampled: int | None = None, workers: int = 1
) -> Iterator[tuple[str, str]]:
    """Yield the problems of PNG files with examples; see :func:`panoptic_file_problems`.

    ``num_sampled`` files, spread over the panoptic file, are decoded; if it is None, all, with a progress bar.
    """
    entries = [e for e in content['annotations'] if _is_usable_entry(e) and e['image_id'] in images]
    absent = dict.fromkeys(missing_images(source.png_folder, [entry['file_name'] for entry in entries]))
    for file_name in absent:
        yield 'missing-png', file_name
    entries = [entry for entry in entries if entry['file_name'] not in absent]
    entries = entries[:: 1 if num_sampled is None else max(1, len(entries) // num_sampled)]
    with ThreadPoolExecutor(max_workers=workers) as pool:
        found = pool.map(lambda entry: _png_problems(source.png_folder, entry, images[entry['image_id']]), entries)
        for problems in tqdm(found, 'panoptic PNG files', len(entries), unit='', disable=num_sampled is not None):
            yield from problems


def _png_problems(folder: str, entry: dict, image: dict) -> list[tuple[str, str]]:
    """Problems of a PNG file that exists, against its entry in the panoptic file and that of its image."""
    file_name = entry['file_name']
    path = os.path.join(folder, file_name)
    problem = header_problem(path, (image['width'], image['height']))
    if problem is not None:
        return [('undecodable-png' if problem == 'undecodable-image' else 'png-size-mismatch', file_name)]
    try:
        ids = set(np.unique(read_segment_ids(path)).tolist()) - {0}
    except (OSError, ValueError, AttributeError):
        return [('undecodable-png', file_name)]
    listed = {segment['id'] for segment in entry['segments_info']}
    problems = [('empty-segment', f'segment {i} of {file_name}') for i in sorted(listed - ids)]
    if strange := sorted(ids - listed):
        problems.append(('colour-without-segment', f'{strange[0]} in {file_name}'))
    return problems
