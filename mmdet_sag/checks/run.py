"""All checks of a run before it starts, and the handing over of the annotation files that they have read."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import NamedTuple

from mmdet.datasets import CocoDataset
from mmengine.config import Config

from ..datasets.coco_file import load_coco
from ..datasets.data_sources import CocoSource, PanopticSource, coco_sources
from ..errors import InputError
from .checkpoint import check_checkpoint_file, check_pretrained
from .data import check_data
from .evaluator import MetricConfig, check_metric, coco_metrics
from .loader import check_full_batch, check_loader, check_packages
from .model import check_class_counts, check_targets, check_types
from .panoptic import check_panoptic_data


class _Phase:
    """Training, validation or test: its data, and what measures on them."""

    def __init__(self, cfg: Config, name: str, contents: dict[str, dict]) -> None:
        self.cfg = cfg
        self.name = name
        self.contents = contents
        self.loader = cfg[f'{name}_dataloader']
        self.dataset_option = f'{name}_dataloader.dataset'
        self.evaluated = name != 'train'
        self.evaluator = cfg.get(f'{name}_evaluator') if self.evaluated else None
        # The image entries that each data set uses, before its indices, by its place in the config.
        self.used_images: dict[str, list[dict]] = {}

    @property
    def dataset(self) -> dict:
        return self.loader['dataset']

    @cached_property
    def sources(self) -> list[CocoSource]:
        return list(coco_sources(self.dataset, self.dataset_option))

    @property
    def metrics(self) -> list[MetricConfig]:
        return coco_metrics(self.evaluator, f'{self.name}_evaluator')

    def load(self, path: str, annotations_needed: bool = False) -> dict:
        if path not in self.contents:
            self.contents[path] = load_coco(path, annotations_needed)
        return self.contents[path]


def _check_packages(phase: _Phase) -> None:
    check_packages(phase.dataset, phase.dataset_option)
    check_packages(phase.evaluator, f'{phase.name}_evaluator')


def _check_metrics(phase: _Phase) -> None:
    for metric in phase.metrics:
        check_metric(metric, phase.sources, phase.load)


def _check_data(phase: _Phase, source: CocoSource) -> None:
    measured = any(metric.measures_instances for metric in phase.metrics)
    labels_needed = measured if phase.evaluated else source.labelled
    masks_needed = bool(source.loads_masks) or any(metric.measures_masks for metric in phase.metrics)
    content = phase.load(source.ann_file, labels_needed)
    phase.used_images[source.option] = check_data(source, content, phase.evaluated, masks_needed, labels_needed)


def _check_panoptic_data(phase: _Phase, source: PanopticSource) -> None:
    content = phase.load(source.panoptic_ann_file, True)
    check_panoptic_data(source, content, phase.used_images[source.option], phase.evaluated)


def _check_full_batch(phase: _Phase) -> None:
    images = {source.option: source.of_indices(phase.used_images[source.option]) for source in phase.sources}
    if not phase.evaluated:
        check_full_batch(phase.loader, 'train_dataloader', images, phase.cfg.get('launcher', 'none'))


class _StartCheck(NamedTuple):
    """A function of a phase, or of a phase and each data set of a kind in it, and the phases that it is called for."""

    subject: type
    check: Callable[..., object]
    phases: tuple[str, ...] = ('train', 'val', 'test')

    def run(self, phase: _Phase) -> None:
        if self.subject is _Phase:
            self.check(phase)
            return
        for source in phase.sources:
            if isinstance(source, self.subject):
                self.check(phase, source)


# A run always has exactly one of these phases: its checks of the model and of load_from are called once.
_OF_RUN = ('train', 'test')
# In their order. A new start check is a function and a row.
_START_CHECKS = (
    _StartCheck(_Phase, lambda p: check_types(p.cfg.model), _OF_RUN),
    _StartCheck(_Phase, lambda p: check_loader(p.loader, f'{p.name}_dataloader')),
    _StartCheck(_Phase, _check_packages),
    _StartCheck(CocoSource, lambda p, source: check_class_counts(p.cfg.model, source.class_counts, source.option)),
    _StartCheck(_Phase, lambda p: check_targets(p.cfg.model, p.dataset, p.dataset_option, p.sources), ('train',)),
    _StartCheck(_Phase, lambda p: check_pretrained(p.cfg.model, p.cfg.get('load_from')), ('train',)),
    _StartCheck(_Phase, lambda p: check_checkpoint_file(p.cfg.get('load_from') or None, 'load_from'), _OF_RUN),
    _StartCheck(_Phase, _check_metrics),
    _StartCheck(CocoSource, _check_data),
    _StartCheck(PanopticSource, _check_panoptic_data),
    _StartCheck(_Phase, _check_full_batch),
)


def check_inputs(cfg: Config, mode: str) -> dict[str, dict]:
    """Check a run's data, config and checkpoints before it starts.

    Input that would crash, hang or silently ruin the run raises; other problems become one line of the log for each
    data set. Each annotation file is read once, and no image is decoded, except some panoptic PNG files. All of COCO
    takes a quarter of a minute, a third of it for reading the annotation file. In a distributed run, one process
    suffices.

    Args:
        cfg: Config of the run, with command-line options merged.
        mode: ``'train'`` checks training and validation data and pretrained weights, ``'test'`` the test data.

    Returns:
        Content of the data sets' annotation files by path, for :func:`hand_over`.

    Raises:
        InputError: Something cannot be used; the message is one line that names it and the remedy.
    """
    if mode not in ('train', 'test'):
        raise ValueError(f"mode is 'train' or 'test', not '{mode}'")
    for key in ('model', f'{mode}_dataloader', f'{mode}_cfg', *(['test_evaluator'] if mode == 'test' else [])):
        if cfg.get(key) is None:
            raise InputError(f'the config has no {key}: add it, or inherit one from configs/_base_')
    contents: dict[str, dict] = {}
    phases = [
        _Phase(cfg, name, contents)
        for name in (('train', 'val') if mode == 'train' else ('test',))
        if cfg.get(f'{name}_dataloader') is not None and cfg.get(f'{name}_cfg') is not None
    ]
    for row in _START_CHECKS:
        for phase in phases:
            if phase.name in row.phases:
                row.run(phase)
    named = {source.ann_file for phase in phases for source in phase.sources}
    return {path: content for path, content in contents.items() if path in named}


@contextmanager
def hand_over(contents: dict[str, dict]) -> Iterator[None]:
    """Give data sets that are built in this context the annotation files that :func:`check_inputs` has read.

    The first data set of a file takes its content out of ``contents``, and nothing else keeps it. A second one, or one
    of another file, reads its file itself. What is left is dropped at the end.

    Args:
        contents: Content of annotation files by path, as data sets name them.
    """
    stock = CocoDataset.COCOAPI

    class ParsedCOCO(stock):  # type: ignore[misc, valid-type]
        def __init__(self, annotation_file: str) -> None:
            content = contents.pop(annotation_file, None)
            super().__init__(annotation_file if content is None else None)
            if content is not None:
                self.dataset = content
                self.createIndex()
                self.img_ann_map = self.imgToAnns
                self.cat_img_map = self.catToImgs

    CocoDataset.COCOAPI = ParsedCOCO
    try:
        yield
    finally:
        CocoDataset.COCOAPI = stock
        contents.clear()
