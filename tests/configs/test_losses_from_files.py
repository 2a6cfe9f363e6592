"""Losses computed from annotation and image files by a config's own data set and pipeline, as a training does it."""

import json
from pathlib import Path

import pytest
import torch
from mmdet.registry import DATASETS
from mmdet.structures.mask import PolygonMasks
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from support.reference import CONFIGS, DATA, LOSSES, load_case, read_image, read_json

from mmdet_sag.datasets.data_sources import innermost_dataset

COCO_TINY = Path(__file__).parents[3] / 'shared/data/coco_tiny'
PIPELINES = Path(__file__).parents[3] / 'shared/golden'
CENTERMASK_CONFIGS = sorted(
    path.relative_to(CONFIGS).as_posix()
    for path in CONFIGS.glob('centermask*/*.py')
    # Masks by points on CenterNet are learnt as bitmaps.
    if 'overfit' not in path.name and not path.name.startswith('centermask-points_')
)


def from_files(config: Config, ann_file: Path, image_folder: Path, scale: tuple[int, int]) -> torch.utils.data.Dataset:
    """The training data set of a config, read from other files, at one size and without flips."""
    init_default_scope('mmdet')
    cfg = config.train_dataloader.dataset.copy()
    cfg.update(data_root='', ann_file=str(ann_file), data_prefix=dict(img=f'{image_folder}/'))
    for transform in cfg.pipeline:
        if transform.type == 'RandomChoiceResize':
            transform.scales = [scale]
        elif transform.type == 'RandomFlip':
            transform.prob = 0.0
    return DATASETS.build(cfg)


def losses_of(model: torch.nn.Module, dataset: torch.utils.data.Dataset, indices: list[int]) -> dict[str, float]:
    batch = model.data_preprocessor(pseudo_collate([dataset[i] for i in indices]), training=True)
    return {name: loss.item() for name, loss in model(**batch, mode='loss').items()}


@pytest.mark.parametrize('name', CENTERMASK_CONFIGS)
def test_every_centermask_config_trains_on_the_polygons_of_its_files(name):
    pipeline = innermost_dataset(Config.fromfile(CONFIGS / name).train_dataloader.dataset).pipeline
    (load,) = [transform for transform in pipeline if transform.type == 'LoadAnnotations']
    assert load.with_mask
    assert not load.poly2mask


def test_losses_from_files_are_those_of_the_reference(tmp_path):
    facts = read_json('train.json.gz')
    case = load_case('centermask-lite_v19-slim')
    images, annotations = [], []
    for i, sample in enumerate(facts['samples']):
        height, width = read_image(f'train{i}.png').shape[:2]
        images.append(dict(id=i, file_name=f'train{i}.png', height=height, width=width))
        for (x1, y1, x2, y2), label, polygons in zip(sample['boxes'], sample['labels'], sample['polygons']):
            annotations.append(
                dict(
                    id=len(annotations),
                    image_id=i,
                    category_id=label,
                    segmentation=polygons,
                    bbox=[x1, y1, x2 - x1, y2 - y1],
                    area=(x2 - x1) * (y2 - y1),
                    iscrowd=0,
                )
            )
    classes = DATASETS.get('CocoDataset').METAINFO['classes']
    categories = [dict(id=label, name=name) for label, name in enumerate(classes)]
    ann_file = tmp_path / 'annotations.json'
    ann_file.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))

    sizes = [(image['width'], image['height']) for image in images]
    losses = {}
    for i in (0, 1):
        dataset = from_files(case.config, ann_file, DATA, (max(sizes[i]), min(sizes[i])))
        losses[i] = dataset[i]
        assert isinstance(losses[i]['data_samples'].gt_instances.masks, PolygonMasks)
        assert losses[i]['inputs'].shape[1:] == sizes[i][::-1]
    batch = case.model.train().data_preprocessor(pseudo_collate([losses[0], losses[1]]), training=True)
    for name, loss in case.model(**batch, mode='loss').items():
        assert loss.item() == pytest.approx(facts['losses'][0][LOSSES[name]], rel=1e-3), name


@pytest.mark.skipif(not COCO_TINY.is_dir(), reason='needs the folder shared/data/coco_tiny beside the clone')
def test_losses_of_real_images_are_those_that_the_reference_computes_from_the_same_files():
    facts = json.loads((PIPELINES / 'pipeline_v39.json').read_text())
    case = load_case(facts['weights'])
    split = facts['split']
    ann_file = COCO_TINY / f'annotations/instances_{split}.json'
    dataset = from_files(case.config, ann_file, COCO_TINY / split, (facts['max'], facts['short']))
    places = {Path(dataset.get_data_info(i)['img_path']).name: i for i in range(len(dataset))}
    for step in facts['steps']:
        losses = losses_of(case.model.train(), dataset, [places[name] for name in step['files']])
        for name, loss in losses.items():
            assert loss == pytest.approx(step['losses'][LOSSES[name]], rel=1e-3), (step['files'], name)
