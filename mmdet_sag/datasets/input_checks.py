import inspect
import os
from collections.abc import Callable, Sequence
from typing import Any

from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS
from mmengine.config import Config
from mmengine.logging import print_log

from ..errors import InputError
from ..fileio import is_remote
from .annotation_checks import annotation_problems, category_problems, is_usable_image, usable_images
from .coco_file import load_coco
from .coco_source import CocoSource, coco_sources
from .image_checks import header_problem, missing_images
from .model_checks import check_checkpoint_file, check_class_count, check_pretrained, check_types, has_mask_branch
from .problem_kinds import PROBLEM_KINDS
from .problem_tally import ProblemTally

_FULL_CHECK = 'tools/misc/check_dataset.py'
_SAMPLED_HEADERS = 16
# Decoding all compressed masks can take minutes; one writer makes them all, and mostly all wrong.
_SAMPLED_MASKS = 500
# With these the data set skips an annotation before it looks at the mask.
_SKIPPED = frozenset(('empty-box', 'sub-pixel-box', 'box-outside-image', 'zero-area'))
_MASK_KINDS = frozenset(
    (
        'missing-mask',
        'malformed-mask',
        'odd-polygon',
        'short-polygon',
        'non-finite-polygon',
        'polygon-outside-image',
        'rle-size-mismatch',
        'undecodable-rle',
        'empty-mask',
    )
)


def _listed(names: Sequence[str], limit: int = 8) -> str:
    return ', '.join(repr(name) for name in names[:limit]) + (', ...' if len(names) > limit else '')


def _is_coco_metric(kind: Any) -> bool:
    found = METRICS.get(kind) if isinstance(kind, str) else kind
    return inspect.isclass(found) and issubclass(found, CocoMetric)


def _metrics(evaluator: Any) -> list[tuple[str, dict]]:
    """COCO metrics of an evaluator's config, each with its place relative to the evaluator."""
    if isinstance(evaluator, dict):
        entries = [('', evaluator)]
    else:
        entries = [(f'.{index}', entry) for index, entry in enumerate(evaluator or [])]
    return [(place, entry) for place, entry in entries if _is_coco_metric(entry.get('type'))]


def _has_usable_mask(annotation: dict, problems: Sequence[str]) -> bool:
    mask = annotation.get('segmentation')
    if isinstance(mask, list):
        return any(isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in mask)
    return _MASK_KINDS.isdisjoint(problems)


def _check_categories(source: CocoSource, categories: list, tally: ProblemTally) -> None:
    found = category_problems(categories, source.classes)
    for kind, example in found:
        tally.add(kind, example)
    names = [category.get('name') for category in categories if isinstance(category, dict)]
    if 'class-not-in-file' in tally.counts:
        absent = [example.strip("'") for kind, example in found if kind == 'class-not-in-file']
        raise InputError(
            f"annotation file '{source.ann_file}' has no class {_listed(absent, 3)} ({len(absent)} of the "
            f'{len(source.classes)} classes of {source.option}); it has {_listed(names)}: set '
            f"{source.option}.metainfo=dict(classes=(...)) to the file's names, the same in every data set, and the "
            "heads' num_classes to their number"
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
                else 'correct the file'
            )
            raise InputError(
                f"annotation file '{source.ann_file}': {tally.describe(kind)}: {remedy} or name another file with "
                f'--cfg-options {source.option}.ann_file=FILE'
            )


def _check_images(source: CocoSource, images: list[dict]) -> None:
    if not os.path.isdir(source.image_folder or '.'):
        raise InputError(
            f"image folder '{source.image_folder}' does not exist: put the images or a link there, or set "
            f'--cfg-options {source.option}.data_prefix.img=DIR'
        )
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
        if problem is not None:
            what = {
                'undecodable-image': 'cannot be decoded',
                'image-size-mismatch': f'is not {image["width"]} x {image["height"]} as the annotation file says',
                'exif-rotated-image': 'is turned by its EXIF orientation, unlike the sizes in the annotation file',
            }[problem]
            raise InputError(
                f"image '{path}' {what}: replace it, or run '{_FULL_CHECK} CONFIG --fix OUT.json', which finds all "
                'such images and leaves them out in a copy'
            )


def _check_source(source: CocoSource, content: dict, evaluated: bool, masks_needed: bool, labels_needed: bool) -> None:
    tally = ProblemTally()
    _check_categories(source, content['categories'], tally)
    _refuse(source, tally, evaluated)

    images, image_problems = usable_images(content['images'])
    for kind, example in image_problems:
        tally.add(kind, example)
    if not content['images']:
        raise InputError(
            f"data set is empty: '{source.ann_file}' lists no images: name another file with --cfg-options "
            f'{source.option}.ann_file=FILE'
        )

    class_ids = {category['id'] for category in content['categories'] if category['name'] in source.classes}
    category_ids = {category['id'] for category in content['categories']}
    step = max(1, len(content['annotations']) // _SAMPLED_MASKS)
    seen = set()
    with_class = set()
    usable_on = set()
    for index, annotation in enumerate(content['annotations']):
        problems = annotation_problems(annotation, images, category_ids, masks_needed, decode=index % step == 0)
        if problems == ['annotation-malformed']:
            tally.add('annotation-malformed', f'entry {index}')
            continue
        name = annotation['id']
        if name in seen:
            tally.add('duplicate-annotation-id', f'annotation {name}')
        seen.add(name)
        in_class = annotation['category_id'] in class_ids
        if in_class:
            with_class.add(annotation['image_id'])
        skipped = not in_class or bool(annotation.get('ignore', False)) or not _SKIPPED.isdisjoint(problems)
        for kind in problems:
            # What is never looked at does no harm.
            harmless = 'unknown-image' in problems or (kind in _MASK_KINDS and (not in_class if evaluated else skipped))
            if kind in ('unknown-image', 'unknown-category') or not harmless:
                tally.add(kind, f'annotation {name}')
        is_object = not skipped and annotation.get('iscrowd') != 1
        if is_object and (not masks_needed or _has_usable_mask(annotation, problems)):
            usable_on.add(annotation['image_id'])
    _refuse(source, tally, evaluated)

    kept = list(images.values())
    if not source.test_mode:
        min_size = source.filter_cfg.get('min_size', 0)
        if source.filter_cfg.get('filter_empty_gt', False):
            kept = [image for image in kept if image['id'] in with_class]
        large = [image for image in kept if min(image['width'], image['height']) >= min_size]
        if kept and not large:
            raise InputError(
                f"data set is empty: all images of '{source.ann_file}' are smaller than {min_size} pixels: set "
                f'--cfg-options {source.option}.filter_cfg.min_size=1'
            )
        kept = large
    if labels_needed and usable_on.isdisjoint(image['id'] for image in kept):
        raise InputError(
            f"data set is empty: none of the {len(content['annotations'])} annotations of '{source.ann_file}' is an "
            f'object of the {len(source.classes)} classes that could be learnt or found (crowd regions, empty boxes '
            f'and broken masks do not count): name another file with --cfg-options {source.option}.ann_file=FILE'
        )
    _check_images(source, kept)
    if tally:
        print_log(
            f'{source.option}: {"; ".join(tally.describe(kind) for kind in tally.counts)}. Nothing of this stops '
            f'a run; {_FULL_CHECK} lists it.',
            logger='current',
        )


def _outline(content: dict) -> tuple[set, list]:
    images = {image['id'] for image in content['images'] if is_usable_image(image)}
    return images, [(c.get('id'), c.get('name')) for c in content['categories'] if isinstance(c, dict)]


def _check_evaluator(place: str, metric: dict, sources: Sequence[CocoSource], load: Callable[[str], dict]) -> None:
    path = metric.get('ann_file')
    if path is None or is_remote(path, metric.get('backend_args')):
        return
    if not os.path.isfile(path):
        remedy = f'{place}.ann_file={sources[0].ann_file}' if len(sources) == 1 else f'{place}.ann_file=FILE'
        raise InputError(f"annotation file '{path}' ({place}.ann_file) does not exist: set --cfg-options {remedy}")
    if len(sources) != 1 or os.path.samefile(path, sources[0].ann_file):
        return
    if _outline(load(path)) != _outline(load(sources[0].ann_file)):
        raise InputError(
            f"{place}.ann_file is '{path}', but the images come from '{sources[0].ann_file}', which lists others: set "
            f'--cfg-options {place}.ann_file={sources[0].ann_file}'
        )


def _check_loader(loader: dict, option: str) -> None:
    if 'dataset' not in loader:
        raise InputError(f'{option} has no dataset: name one')
    if loader.get('persistent_workers', False) and loader.get('num_workers', 0) == 0:
        raise InputError(
            f'{option}.persistent_workers=True needs workers: set --cfg-options {option}.persistent_workers=False, or '
            f'{option}.num_workers=1'
        )


def check_inputs(cfg: Config, mode: str) -> None:
    """Checks a run's data, config and checkpoints before it starts, and refuses what cannot work.

    What would crash, hang or silently ruin the run raises; the rest is one line of the log. No annotation file is
    read more than once and no image is decoded. With all of COCO this takes seconds, most of them for reading the
    annotation file. In a distributed run one process suffices.

    Args:
        cfg: Config of the run, with command-line options merged.
        mode: ``'train'`` checks training and validation data and pretrained weights, ``'test'`` the test data.

    Raises:
        InputError: Something cannot be used; the message is one line that names it and the remedy.
    """
    if mode not in ('train', 'test'):
        raise ValueError(f"mode is 'train' or 'test', not '{mode}'")
    phases = ['train', 'val'] if mode == 'train' else ['test']
    needed = ['model', f'{mode}_dataloader', f'{mode}_cfg']
    if mode == 'test':
        needed.append('test_evaluator')
    for key in needed:
        if cfg.get(key) is None:
            raise InputError(f'the config has no {key}: add it, or inherit one from configs/_base_')
    model = cfg.model
    check_types(model)

    contents: dict[str, dict] = {}

    def load(path: str, annotations_needed: bool = False) -> dict:
        if path not in contents:
            contents[path] = load_coco(path, annotations_needed)
        return contents[path]

    sources: dict[str, list[CocoSource]] = {}
    for phase in phases:
        loader = cfg.get(f'{phase}_dataloader')
        if loader is None or cfg.get(f'{phase}_cfg') is None:
            continue
        _check_loader(loader, f'{phase}_dataloader')
        sources[phase] = list(coco_sources(loader.dataset, f'{phase}_dataloader.dataset'))
        for source in sources[phase]:
            check_class_count(model, source.classes, source.option)
    if mode == 'train':
        check_pretrained(model)
    if cfg.get('load_from'):
        check_checkpoint_file(cfg.load_from, 'load_from')

    for phase, found in sources.items():
        metrics = [] if phase == 'train' else _metrics(cfg.get(f'{phase}_evaluator'))
        measured = [metric for _, metric in metrics if not metric.get('format_only', False)]
        for place, metric in metrics:
            _check_evaluator(f'{phase}_evaluator{place}', metric, found, load)
        for source in found:
            if phase == 'train' and source.loads_masks is False and has_mask_branch(model):
                raise InputError(
                    f'the model has a mask head, but the pipeline of {source.option} loads no masks: set '
                    'with_mask=True in its LoadAnnotations'
                )
            measures_masks = any('segm' in metric.get('metric', 'bbox') for metric in measured)
            labels_needed = phase == 'train' or bool(measured)
            _check_source(
                source,
                load(source.ann_file, labels_needed),
                evaluated=phase != 'train',
                masks_needed=bool(source.loads_masks) or measures_masks,
                labels_needed=labels_needed,
            )
