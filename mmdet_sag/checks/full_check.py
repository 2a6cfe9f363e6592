"""The full check of data sets: every image decoded, every annotation checked."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from ..datasets.annotation_problems import category_problems, usable_images
from ..datasets.coco_file import load_coco
from ..datasets.coco_source import CocoSource, PanopticSource
from ..datasets.converters.coco_data_set import annotation_files, image_folder
from ..datasets.converters.source_files import split_of
from ..errors import InputError
from .data import checked_annotations
from .images import image_problem
from .problem_kinds import PROBLEM_KINDS, ProblemTally

if TYPE_CHECKING:
    from mmengine.config import Config

# Enough to keep the workers busy, few enough not to queue all of COCO.
_PENDING_PER_WORKER = 64


@dataclass
class DataSetReport:
    """The results of a full check of one data set, which ``options`` of the config name.

    ``masks_needed`` says whether masks count, and ``bad_images`` are the images whose file cannot be used: the kind of
    problem by image id.
    """

    source: CocoSource
    content: dict
    options: list[str]
    masks_needed: bool
    tally: ProblemTally = field(default_factory=lambda: ProblemTally(max_examples=100))
    bad_images: dict = field(default_factory=dict)

    @property
    def is_clean(self) -> bool:
        """Whether all problems found may be intended."""
        return all(PROBLEM_KINDS[kind].notice for kind in self.tally.counts)

    def as_dict(self) -> dict:
        """Return the report as JSON can hold it."""
        return dict(
            options=self.options,
            ann_file=self.source.ann_file,
            image_folder=self.source.image_folder,
            images=len(self.content['images']),
            annotations=len(self.content['annotations']),
            categories=len(self.content['categories']),
            clean=self.is_clean,
            problems=self.tally.as_rows(),
        )


def check_data_sets(cfg: 'Config', splits: Sequence[str], workers: int = 1) -> list[DataSetReport]:
    """Check every data set in COCO's format that a config names, with progress bars on standard error.

    A data set that the config names several times is checked once. Of ``splits`` (``train``, ``val``, ``test``), those
    that the config does not have are left out. ``workers`` threads decode images.
    """
    from ..datasets.data_sources import coco_sources
    from .packages import check_is_detector

    check_is_detector(cfg)
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
    return [_check_data_set(sources, workers) for sources in grouped.values()]


def check_files(
    place: Path, splits: Sequence[str], workers: int = 1, images: Path | None = None
) -> list[DataSetReport]:
    """Check an annotation file in COCO's format, or those of a folder, as :func:`check_data_sets` does.

    Files that are named after another split are left out. ``images`` is the folder of the images, if that is elsewhere.
    """
    if not place.exists():
        raise InputError(f"'{place}' does not exist: give a config, or the folder or annotation file of a data set")
    if images and not images.is_dir():
        raise InputError(f"--images '{images}' is not a folder: name the one of the images")
    reports = []
    for path in [place] if place.is_file() else annotation_files(place):
        split = split_of(path.stem) or split_of(path.parent.name)
        if split and split not in splits:
            continue
        content = load_coco(str(path))
        objects = content['annotations']
        folder = image_folder(path, content['images'], images)
        if folder is None:
            raise InputError(f"the images of annotation file '{path}' are not beside it: give --images DIR")
        names = [category.get('name') for category in content['categories'] if isinstance(category, dict)]
        source = CocoSource(
            option=split or path.stem,
            ann_file=str(path),
            image_folder=str(folder),
            classes=tuple(name for name in names if isinstance(name, str)),
            filter_cfg={},
            test_mode=False,
            # Where no object has a mask, masks are learnt from the boxes.
            boxes_only=bool(objects) and not any(isinstance(a, dict) and a.get('segmentation') for a in objects),
        )
        reports.append(_check_data_set([source], workers))
    if not reports:
        raise InputError(
            f"'{place}' has no annotation file in COCO's format for {', '.join(splits)}: convert other labels with "
            'mmdet-sag convert-data, which says what is wrong with them'
        )
    return reports


def _check_data_set(sources: Sequence[CocoSource], workers: int) -> DataSetReport:
    """Check a data set, given once for each place in the config that names it."""
    source = sources[0]
    unlabelled = all(each.option.startswith('test_') for each in sources)
    content = load_coco(source.ann_file, annotations_needed=not unlabelled)
    masks_needed = any(each.loads_masks is not False and not each.boxes_only for each in sources)
    report = DataSetReport(source, content, [each.option for each in sources], masks_needed)
    tally = report.tally
    tally.add_all(category_problems(content['categories'], source.classes))
    images, problems_of_images = usable_images(content['images'])
    tally.add_all(problems_of_images)
    total = len(content['annotations'])
    polygons_only = any(each.polygons_only and not each.test_mode for each in sources)
    annotations = checked_annotations(content, images, tally, masks_needed, polygons_only)
    for annotation, problems in tqdm(annotations, 'annotations', total=total, unit='', disable=not total):
        found = (kind for kind in problems if kind != 'missing-mask' or not source.boxes_suffice)
        tally.add_all((kind, f'annotation {annotation["id"]}') for kind in found)

    source.require_image_folder()
    checked = _file_problems(source.image_folder, images.values(), workers)
    for image, kind in tqdm(checked, 'images', total=len(images), unit=''):
        if kind is not None:
            tally.add(kind, image['file_name'])
            if not PROBLEM_KINDS[kind].notice:
                report.bad_images[image['id']] = kind
    panoptic = {
        (each.panoptic_ann_file, each.png_folder, each.stuff_classes): each
        for each in sources
        if isinstance(each, PanopticSource)
    }
    if panoptic:
        from .panoptic import panoptic_file_problems, png_problems
    for each in panoptic.values():
        content = load_coco(each.panoptic_ann_file)
        tally.add_all(panoptic_file_problems(each, content, images))
        tally.add_all(png_problems(each, content, images, workers=workers))
    return report


def _file_problems(image_folder: str, images: Iterable[dict], workers: int) -> Iterator[tuple[dict, str | None]]:
    def problem(image: dict) -> str | None:
        return image_problem(os.path.join(image_folder, image['file_name']), (image['width'], image['height']))

    # Decoding releases Python's global lock, so threads run in parallel.
    images = iter(images)
    with ThreadPoolExecutor(max_workers=workers) as pool:
        while chunk := list(islice(images, workers * _PENDING_PER_WORKER)):
            yield from zip(chunk, pool.map(problem, chunk))
