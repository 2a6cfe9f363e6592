"""A small panoptic data set on disk, and a Panoptic-CenterMask small enough to train and test in milliseconds."""

from pathlib import Path

import torch
from demo_shapes import make_demo_shapes
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

CONFIG = Path(__file__).parents[2] / 'configs/panoptic_centermask/panoptic-centermask_demo.py'
NUM_THINGS, NUM_STUFF, CHANNELS, SIZE = 6, 5, 32, 64


def tiny_config(num_things: int = NUM_THINGS, num_stuff: int = NUM_STUFF) -> Config:
    """The demo's config with a small backbone and narrow heads."""
    config = Config.fromfile(CONFIG)
    norm = dict(type='GN', num_groups=8)
    counts = dict(num_things_classes=num_things, num_stuff_classes=num_stuff)
    roi_heads = dict(in_channels=CHANNELS, conv_out_channels=CHANNELS, num_classes=num_things)
    config.merge_from_dict(
        dict(
            model=dict(
                backbone=dict(arch='V-19-slim-dw'),
                neck=dict(out_channels=CHANNELS),
                bbox_head=dict(in_channels=CHANNELS, feat_channels=CHANNELS, num_classes=num_things, norm_cfg=norm),
                roi_head=dict(
                    mask_roi_extractor=dict(out_channels=CHANNELS),
                    mask_head=dict(norm_cfg=norm, **roi_heads),
                    mask_iou_head=dict(roi_heads, fc_out_channels=64),
                ),
                semantic_head=dict(in_channels=CHANNELS, inner_channels=CHANNELS, norm_cfg=norm, **counts),
                panoptic_fusion_head=counts,
                test_cfg=dict(panoptic=dict(stuff_area_limit=40)),
            )
        )
    )
    return config


def build_tiny(seed: int = 0, **options) -> torch.nn.Module:
    """Build and initialize the model of :func:`tiny_config`, with ``options`` merged into its config."""
    init_default_scope('mmdet')
    config = tiny_config()
    config.merge_from_dict({f'model.{key}': value for key, value in options.items()})
    torch.manual_seed(seed)
    model = MODELS.build(config.model)
    model.init_weights()
    return model


def write_shapes(root: Path, num_train: int = 6, num_val: int = 3) -> None:
    """Write a small panoptic demo data set."""
    make_demo_shapes(root, num_train, num_val, SIZE, panoptic=True)


def shapes_config(data: Path) -> Config:
    """Config that trains the tiny model on the data of :func:`write_shapes`, with EMA."""
    config = tiny_config()
    annotations = f'{data}/annotations'
    for split in ('train', 'val', 'test'):
        config[f'{split}_dataloader'].update(num_workers=0, persistent_workers=False)
        config[f'{split}_dataloader'].dataset.data_root = f'{data}/'
    for split in ('val', 'test'):
        config[f'{split}_dataloader'].dataset.pipeline[1].scale = (SIZE, SIZE)
        instances, panoptic = config[f'{split}_evaluator']
        instances.ann_file = f'{annotations}/instances_val2017.json'
        panoptic.update(ann_file=f'{annotations}/panoptic_val2017.json', seg_prefix=f'{annotations}/panoptic_val2017/')
    config.custom_hooks = [dict(type='EMAHook')]
    config.train_cfg = dict(type='ReproducibleIterBasedTrainLoop', max_iters=6, val_interval=1000)
    config.param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=5)]
    config.default_hooks.checkpoint = dict(
        type='AtomicCheckpointHook', by_epoch=False, interval=2, max_keep_ckpts=-1, save_best=None
    )
    config.default_hooks.logger.interval = 1
    config.randomness = dict(seed=1)
    return config
