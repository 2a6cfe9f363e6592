"""The full check of a data set: every image decoded, every annotation looked at."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice

from mmengine.config import Config
from tqdm import tqdm

from ..datasets.coco_file import load_coco
from ..datasets.data_sources import CocoSource, coco_sources
from ..datasets.panoptic_source import PanopticSource
from ..errors import InputError
from .annotation_file_check import AnnotationFileCheck
from .data_set_report import DataSetReport
from .images import image_problem
from .panoptic_problems import (
    category_kind_problems,
    is_usable_entry,
    missing_png_problems,
    png_problems,
    segment_problems,
)
from .problem_kinds import PROBLEM_KINDS
from .problem_tally import ProblemTally

# Enough to keep the workers busy, few enough not to queue all of COCO.
_PENDING_PER_WORKER = 64


def _file_problem(image_folder: str, image: dict) -> str | None:
    return image_problem(os.path.join(image_folder, image['file_name']), (image['width'], image['height']))


def _file_problems(image_folder: str, images: Iterable[dict], workers: int) -> Iterator[tuple[dict, str | None]]:
    # Decoding releases Python's global lock, so threads run in parallel.
    images = iter(images)
    with ThreadPoolExecutor(max_workers=workers) as pool:
        while chunk := list(islice(images, workers * _PENDING_PER_WORKER)):
            yield from zip(chunk, pool.map(partial(_file_problem, image_folder), chunk))


def _check_panoptic(source: PanopticSource, content: dict, images: dict, tally: ProblemTally, workers: int) -> None:
    for kind, example in category_kind_problems(content['categories'], source):
        tally.add(kind, example)
    for kind, example in segment_problems(content, images):
        tally.add(kind, example)
    entries = [e for e in content['annotations'] if is_usable_entry(e) and e['image_id'] in images]
    missing = set()
    for kind, example in missing_png_problems(source, entries):
        tally.add(kind, example)
        missing.add(example)
    entries = [entry for entry in entries if entry['file_name'] not in missing]
    with ThreadPoolExecutor(max_workers=workers) as pool:
        found = pool.map(lambda entry: png_problems(source, entry, images[entry['image_id']]), entries)
        for problems in tqdm(found, 'panoptic PNG files', total=len(entries), unit=''):
            for kind, example in problems:
                tally.add(kind, example)


def check_data_set(sources: Sequence[CocoSource], content: dict, workers: int = 1) -> DataSetReport:
    """Checks a data set in full, with a progress bar on standard error.

    Args:
        sources: The data set, once for each place in the config that names it.
        content: Content of its annotation file.
        workers: Threads that decode images.

    Raises:
        InputError: The image folder does not exist.
    """
    source = sources[0]
    report = DataSetReport(source, content, [each.option for each in sources])
    tally = report.tally
    check = AnnotationFileCheck(
        content,
        source.classes,
        tally,
        masks_needed=source.loads_masks is not False,
        polygons_only=any(each.polygons_only and not each.test_mode for each in sources),
    )
    check.check_categories()
    check.check_images()
    total = len(content['annotations'])
    for annotation, problems in tqdm(check.annotations(), 'annotations', total=total, unit='', disable=not total):
        for kind in problems:
            tally.add(kind, f'annotation {annotation["id"]}')

    source.require_image_folder()
    images = check.images
    checked = _file_problems(source.image_folder, images.values(), workers)
    for image, kind in tqdm(checked, 'images', total=len(images), unit=''):
        if kind is not None:
            tally.add(kind, image['file_name'])
            if not PROBLEM_KINDS[kind].notice:
                report.bad_images[image['id']] = kind
    for panoptic in dict.fromkeys(each.panoptic for each in sources if each.panoptic is not None):
        _check_panoptic(panoptic, load_coco(panoptic.ann_file), images, tally, workers)
    return report


def check_data_sets(cfg: Config, splits: Sequence[str], workers: int = 1) -> list[DataSetReport]:
    """Checks every data set in COCO's format that a config names; one named several times is checked once.

    Args:
        cfg: The config, with command-line options merged.
        splits: Of ``train``, ``val`` and ``test``; a split that the config does not have is left out.
        workers: Threads that decode images.

    Raises:
        InputError: A data set cannot be checked: its files are missing or not in COCO's format.
    """
    grouped: dict[tuple, list[CocoSource]] = {}
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        if loader is None:
            continue
        if 'dataset' not in loader:
            raise InputError(f'{split}_dataloader has no dataset: name one')
        for source in coco_sources(loader.dataset, f'{split}_dataloader.dataset'):
            key = (os.path.realpath(source.ann_file), os.path.realpath(source.image_folder), source.classes)
            grouped.setdefault(key, []).append(source)
    if not grouped:
        raise InputError(f"the config names no data set in COCO's format on the local disk for {', '.join(splits)}")
    reports = []
    for sources in grouped.values():
        unlabelled = all(source.option.startswith('test_') for source in sources)
        content = load_coco(sources[0].ann_file, annotations_needed=not unlabelled)
        reports.append(check_data_set(sources, content, workers))
    return reports
