"""Small trainings: of a CenterMask on images of rectangles, and of a model of a few weights."""

import copy
import json
import uuid
from pathlib import Path

import cv2
import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

from .tiny import tiny_config

CLASSES = ('green', 'blue')
SIZE = 64
HOOKS = dict(
    checkpoint=dict(type='AtomicCheckpointHook', by_epoch=False, interval=2, max_keep_ckpts=2),
    loss_guard=dict(type='LossGuardHook'),
    preemption=dict(type='PreemptionHook'),
    logger=dict(type='LoggerHook', interval=1),
)


def write_rectangles(root: Path, num_images: int = 6) -> None:
    """Write images with two rectangles each, and their annotations, into a folder."""
    (root / 'images').mkdir(parents=True)
    generator = np.random.default_rng(0)
    images, annotations = [], []
    for image_id in range(1, num_images + 1):
        image = generator.integers(0, 80, (SIZE, SIZE, 3), dtype=np.uint8)
        for category in (1, 2):
            x, y = generator.integers(2, 30, 2).tolist()
            w, h = generator.integers(16, 30, 2).tolist()
            image[y : y + h, x : x + w] = (60, 255, 60) if category == 1 else (255, 60, 60)
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image_id,
                    category_id=category,
                    bbox=[x, y, w, h],
                    area=w * h,
                    iscrowd=0,
                    segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]],
                )
            )
        cv2.imwrite(str(root / 'images' / f'{image_id}.png'), image)
        images.append(dict(id=image_id, file_name=f'{image_id}.png', width=SIZE, height=SIZE))
    categories = [dict(id=i, name=name) for i, name in enumerate(CLASSES, 1)]
    content = dict(images=images, annotations=annotations, categories=categories)
    (root / 'annotations.json').write_text(json.dumps(content))


def rectangles_config(data: Path) -> Config:
    """Config that trains the tiny CenterMask, with EMA and augmentation, on the data of :func:`write_rectangles`."""
    config = tiny_config(num_classes=len(CLASSES))
    dataset = dict(
        data_root=f'{data}/',
        ann_file='annotations.json',
        data_prefix=dict(img='images/'),
        metainfo=dict(classes=CLASSES),
    )
    load = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=False),
    ]
    train_pipeline = [
        *load,
        dict(type='RandomChoiceResize', scales=[(64, 64), (80, 80)], keep_ratio=True),
        dict(type='PhotoMetricDistortion'),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackDetInputs'),
    ]
    meta_keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
    test_pipeline = [
        load[0],
        dict(type='Resize', scale=(SIZE, SIZE), keep_ratio=True),
        load[1],
        dict(type='PackDetInputs', meta_keys=meta_keys),
    ]
    for split, pipeline in (('train', train_pipeline), ('val', test_pipeline), ('test', test_pipeline)):
        loader = config[f'{split}_dataloader']
        loader.update(batch_size=2 if split == 'train' else 1, num_workers=0, persistent_workers=False)
        loader.dataset.update(dataset, pipeline=pipeline)
    for split in ('val', 'test'):
        config[f'{split}_evaluator'].ann_file = f'{data}/annotations.json'
    config.default_hooks.update(HOOKS)
    config.custom_hooks = [dict(type='EMAHook')]
    config.train_cfg = dict(type='ReproducibleIterBasedTrainLoop', max_iters=6, val_interval=1000)
    config.param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=5)]
    config.randomness = dict(seed=1)
    return config


def build_runner(config: Config, work_dir: Path, **options) -> Runner:
    """Build a runner that shares nothing with the others of this process."""
    config = Config(config.to_dict())
    config.merge_from_dict(copy.deepcopy(options))
    # Else it is that of an earlier runner, which writes to a folder that is gone.
    config.get('visualizer', {}).pop('name', None)
    return Runner.from_cfg(Config({**config.to_dict(), 'work_dir': str(work_dir), 'experiment_name': uuid.uuid4().hex}))


def assert_resumes_bit_by_bit(config: Config, folder: Path) -> None:
    """Train four iterations at once, and two of them in another run that is resumed."""
    whole = build_runner(config, folder / 'whole', **{'train_cfg.max_iters': 4})
    whole.train()
    build_runner(config, folder / 'first', **{'train_cfg.max_iters': 2}).train()
    resumed = build_runner(
        config,
        folder / 'second',
        **{'train_cfg.max_iters': 4, 'load_from': str(folder / 'first/iter_2.pth'), 'resume': True},
    )
    resumed.train()
    values = resumed.model.state_dict()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(values[name], value), name


class NumberedImages(Dataset):
    """Twelve samples of numbers; each names the image file that it stands for."""

    metainfo = dict(classes=CLASSES)

    def __getitem__(self, index: int) -> dict:
        sample = DetDataSample(metainfo=dict(img_path=f'image_{index}.png'))
        return dict(inputs=torch.full((4,), float(index)) + torch.rand(4), data_samples=sample)

    def __len__(self) -> int:
        return 12


class FewWeights(BaseModel):
    """A model that trains in milliseconds; its checkpoints have some megabytes, so that writing them takes a while.

    Args:
        num_padding: Number of weights that do nothing.
        bad_image: Image whose loss is NaN.
    """

    def __init__(self, num_padding: int = 0, bad_image: str = '') -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        self.padding = nn.Parameter(torch.zeros(num_padding))
        self.bad_image = bad_image

    def forward(self, inputs: list, data_samples: list, mode: str = 'loss') -> dict:
        inputs = torch.stack(inputs)
        if self.bad_image in [sample.img_path for sample in data_samples]:
            inputs = inputs * float('nan')
        return dict(loss=self.layers(inputs).square().mean() + self.padding.sum())


class PredictsNothing(FewWeights):
    """A :class:`FewWeights` that can be validated."""

    def forward(self, inputs: list, data_samples: list, mode: str = 'loss') -> dict | list:
        return data_samples if mode == 'predict' else super().forward(inputs, data_samples, mode)


def few_weights_runner(work_dir: Path, max_iters: int, model: BaseModel, by_epoch: bool = False, **options) -> Runner:
    """Build a runner of a :class:`FewWeights`; ``options`` replace arguments of the runner."""
    loop = (
        dict(type='ReproducibleEpochBasedTrainLoop', max_epochs=max_iters // 6)
        if by_epoch
        else dict(type='ReproducibleIterBasedTrainLoop', max_iters=max_iters)
    )
    sampler = dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler', shuffle=True)
    arguments = dict(
        model=model,
        work_dir=str(work_dir),
        train_dataloader=dict(dataset=NumberedImages(), sampler=sampler, batch_size=2, num_workers=0),
        train_cfg=loop,
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=1e-3, momentum=0.9)),
        default_hooks=HOOKS,
        randomness=dict(seed=1),
        default_scope='mmdet',
        experiment_name=uuid.uuid4().hex,
    )
    return Runner(**{**arguments, **options})
