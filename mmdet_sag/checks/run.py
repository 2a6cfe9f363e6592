from mmengine.config import Config

from ..datasets.coco_file import load_coco
from ..datasets.data_sources import CocoSource, coco_sources
from ..errors import InputError
from .checkpoint import check_checkpoint_file, check_pretrained
from .data import check_data
from .evaluator import check_evaluator, coco_metrics, panoptic_metrics
from .loader import check_full_batch, check_loader
from .model import check_class_count, check_types, has_mask_branch
from .panoptic import (
    check_panoptic_data,
    check_panoptic_evaluator,
    check_panoptic_model,
    check_panopticapi,
    check_semantic_target,
)


def check_inputs(cfg: Config, mode: str) -> dict[str, dict]:
    """Checks a run's data, config and checkpoints before it starts, and refuses what cannot work.

    What would crash, hang or silently ruin the run raises; the rest is one line of the log. No annotation file is
    read more than once and no image is decoded. With all of COCO this takes a quarter of a minute, a good third of it
    for reading the annotation file. In a distributed run one process suffices.

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
        check_loader(loader, f'{phase}_dataloader')
        check_panopticapi(loader.dataset, f'{phase}_dataloader.dataset')
        if phase == 'train':
            check_semantic_target(model, loader.dataset, 'train_dataloader.dataset')
        sources[phase] = list(coco_sources(loader.dataset, f'{phase}_dataloader.dataset'))
        for source in sources[phase]:
            check_class_count(model, source.classes, source.option)
            check_panoptic_model(model, source, trained=phase == 'train')
    if mode == 'train':
        check_pretrained(model)
    if cfg.get('load_from'):
        check_checkpoint_file(cfg.load_from, 'load_from')

    for phase, found in sources.items():
        images = {}
        metrics = [] if phase == 'train' else coco_metrics(cfg.get(f'{phase}_evaluator'))
        measured = [metric for _, metric in metrics if not metric.get('format_only', False)]
        for place, metric in metrics:
            check_evaluator(f'{phase}_evaluator{place}', metric, found, load)
        if phase != 'train':
            check_panopticapi(cfg.get(f'{phase}_evaluator'), f'{phase}_evaluator')
            for place, metric in panoptic_metrics(cfg.get(f'{phase}_evaluator')):
                panoptic = found[0].panoptic if len(found) == 1 else None
                check_panoptic_evaluator(f'{phase}_evaluator{place}', metric, panoptic, load)
        for source in found:
            if phase == 'train' and source.loads_masks is False and has_mask_branch(model):
                raise InputError(
                    f'the model has a mask head, but the pipeline of {source.option} loads no masks: set '
                    'with_mask=True in its LoadAnnotations'
                )
            measures_masks = any('segm' in metric.get('metric', 'bbox') for metric in measured)
            labels_needed = (phase == 'train' and source.labelled) or bool(measured)
            used = check_data(
                source,
                load(source.ann_file, labels_needed),
                evaluated=phase != 'train',
                masks_needed=bool(source.loads_masks) or measures_masks,
                labels_needed=labels_needed,
            )
            if source.panoptic is not None:
                content = load(source.panoptic.ann_file, True)
                check_panoptic_data(source.panoptic, content, used, evaluated=phase != 'train')
            images[source.option] = source.of_indices(used)
        if phase == 'train':
            check_full_batch(cfg.train_dataloader, 'train_dataloader', images, cfg.get('launcher', 'none'))
    named = {source.ann_file for found in sources.values() for source in found}
    return {path: content for path, content in contents.items() if path in named}
