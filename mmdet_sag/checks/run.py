"""All checks of a run before it starts, and the handing over of the annotation files that they have read."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mmdet.datasets import CocoDataset
from mmengine.config import Config

from ..datasets.coco_file import load_coco
from ..datasets.coco_source import CocoSource, PanopticSource
from ..datasets.data_sources import coco_sources
from ..errors import InputError
from ..models.model_config import type_name
from .checkpoint import check_checkpoint_file, check_pretrained
from .data import check_data
from .evaluator import (
    MetricConfig,
    check_annotation_ids,
    check_images_once,
    check_metric,
    check_save_best,
    coco_metrics,
)
from .loader import check_class_order, check_full_batch, check_loader, check_same_metainfo, check_transforms
from .model import check_class_counts, check_constructor, check_mask_iou_head, check_targets, check_types
from .packages import check_other_package, check_packages
from .panoptic import check_panoptic_data


def _check_config(
    cfg: Config, phase: str, load: Callable[..., dict]
) -> tuple[str, list[CocoSource], list[MetricConfig]]:
    """Check what the config says about training, validation or test; return the phase, its data sets and metrics."""
    loader, evaluator = cfg[f'{phase}_dataloader'], cfg.get(f'{phase}_evaluator') if phase != 'train' else None
    dataset_option = f'{phase}_dataloader.dataset'
    check_loader(loader, f'{phase}_dataloader')
    check_packages(loader.dataset, dataset_option)
    check_packages(evaluator, f'{phase}_evaluator')
    sources = list(coco_sources(loader.dataset, dataset_option))
    for source in sources:
        check_class_counts(cfg.model, source.class_counts, source.option)
    if phase == 'train':
        check_constructor(cfg.model, cfg.get('optim_wrapper') or {})
        check_targets(cfg.model, loader.dataset, dataset_option, sources)
        check_transforms(loader.dataset, dataset_option, sources)
        check_pretrained(cfg.model, cfg.get('load_from'))
    # Not again for validation.
    if phase != 'val':
        check_checkpoint_file(cfg.get('load_from') or None, 'load_from')
    metrics = coco_metrics(evaluator, f'{phase}_evaluator', loader.dataset, dataset_option)
    if metrics:
        check_images_once(loader.dataset, dataset_option)
    # Each metric of a MultiDatasetsEvaluator knows what its own data set says.
    if any(metric.data_set is None for metric in metrics) or _counts_classes(cfg):
        check_same_metainfo(loader.dataset, dataset_option, sources)
    for metric in metrics:
        check_metric(metric, loader.dataset, [source for source in sources if metric.measures(source)], load)
    if phase == 'val':
        check_save_best(cfg, metrics)
    return phase, sources, metrics


def _counts_classes(cfg: Config) -> bool:
    """Whether MMDetection's hook compares heads and data sets, which reads the classes of all of them at once."""
    hooks = [*(cfg.get('default_hooks') or {}).values(), *(cfg.get('custom_hooks') or [])]
    return any(isinstance(hook, dict) and type_name(hook) == 'NumClassCheckHook' for hook in hooks)


def _check_data_sets(
    cfg: Config, phase: str, sources: list[CocoSource], metrics: list[MetricConfig], load: Callable[..., dict]
) -> None:
    """Check the annotations and image files of a phase's data sets."""
    evaluated = phase != 'train'
    images = {}
    for source in sources:
        own = [metric for metric in metrics if metric.measures(source)]
        labels_needed = any(metric.measures_instances for metric in own) if evaluated else source.labelled
        mask_metrics = [metric.option for metric in own if metric.measures_masks]
        used = check_data(source, load(source.ann_file, labels_needed), evaluated, labels_needed, mask_metrics)
        if isinstance(source, PanopticSource):
            check_panoptic_data(source, load(source.panoptic_ann_file, True), used, evaluated)
        images[source.option] = source.of_indices(used)
    for metric in metrics:
        check_annotation_ids(metric, load)
    if not evaluated:
        check_mask_iou_head(cfg.model, [(source, load(source.ann_file)) for source in sources])
        check_full_batch(cfg.train_dataloader, 'train_dataloader', images, cfg.get('launcher', 'none'))


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
    if cfg.get('default_scope', 'mmdet') != 'mmdet':
        check_other_package(cfg, mode)
        return {}
    for key in ('model', f'{mode}_dataloader', f'{mode}_cfg', *(['test_evaluator'] if mode == 'test' else [])):
        if cfg.get(key) is None:
            raise InputError(f'the config has no {key}: add it, or inherit one from configs/_base_')
    contents: dict[str, dict] = {}

    def load(path: str, annotations_needed: bool = False) -> dict:
        if path not in contents or (annotations_needed and not contents[path]['annotations']):
            contents[path] = load_coco(path, annotations_needed)
        return contents[path]

    check_types(cfg.model)
    check_packages(cfg.get('visualizer'), 'visualizer')
    phases = [
        _check_config(cfg, name, load)
        for name in (('train', 'val') if mode == 'train' else ('test',))
        if cfg.get(f'{name}_dataloader') is not None and cfg.get(f'{name}_cfg') is not None
    ]
    sources = [source for _, of_phase, _ in phases for source in of_phase]
    check_class_order(sources)
    for phase in phases:
        _check_data_sets(cfg, *phase, load)
    return {source.ann_file: contents[source.ann_file] for source in sources}


@contextmanager
def hand_over(contents: dict[str, dict]) -> Iterator[None]:
    """Give data sets that are built in this context the annotation files that :func:`check_inputs` has read.

    The first data set of a file takes its content out of ``contents``, and nothing else keeps it. A second one, or one
    of another file, reads its file itself. What is left is dropped at the end.
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
