# A small CenterMask-Lite for the demo data set of tools/dataset_converters/make_demo_dataset.py: it trains from random
# weights in minutes on two CPU cores.
_base_ = [
    '../_base_/models/centermask-lite_small_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    'mmdet::_base_/default_runtime.py',
]

# After _base_: MMEngine takes a config that begins with imports for one of its new style.
import torch  # noqa: E402
from mmengine.utils import digit_version  # noqa: E402

data_root = 'data/demo/'
metainfo = dict(
    classes=('star', 'crescent', 'cross', 'gear', 'ring', 'blob'),
    palette=[(255, 196, 0), (0, 158, 224), (230, 57, 70), (122, 92, 250), (226, 72, 190), (46, 184, 92)],
)

num_classes = 6
max_iters = 1200

model = dict(
    bbox_head=dict(num_classes=num_classes),
    roi_head=dict(mask_head=dict(num_classes=num_classes), mask_iou_head=dict(num_classes=num_classes)),
)

# The stages of the pipelines, named as in ../_base_/datasets/coco_instance_ms.py.
load = [dict(type='LoadImageFromFile', backend_args=None)]
load_annotations = [dict(type='LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=False)]
# Changes nothing, but sets the scale factor that the mask head reads.
test_resize = [dict(type='Resize', scale=(128, 128), keep_ratio=True)]
flip = [dict(type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal'])]
train_pack = [dict(type='PackDetInputs')]
test_pack = [dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]

train_pipeline = [*load, *load_annotations, *flip, *train_pack]
test_pipeline = [*load, *test_resize, *load_annotations, *test_pack]
train_dataloader = dict(
    # demo/run_demo.py trains with two processes on a CPU.
    batch_size=2,
    num_workers=1,
    sampler=dict(_delete_=True, type='InfiniteSampler', shuffle=True),
    dataset=dict(data_root=data_root, metainfo=metainfo, pipeline=train_pipeline),
)
val_dataloader = dict(num_workers=1, dataset=dict(data_root=data_root, metainfo=metainfo, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val2017.json')
test_evaluator = val_evaluator

train_cfg = dict(type='ReproducibleIterBasedTrainLoop', max_iters=max_iters, val_interval=600)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    # PyTorch has the fused step on a CPU since 2.4.
    optimizer=dict(
        type='AdamW', lr=0.002, weight_decay=0.05, fused=digit_version(torch.__version__) >= digit_version('2.4')
    ),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
    clip_grad=dict(max_norm=10),
)
warmup = dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50)
cosine = dict(
    type='CosineAnnealingLR', by_epoch=False, begin=50, end=max_iters, T_max=max_iters - 50, eta_min_ratio=0.01
)
param_scheduler = [warmup, cosine]
default_hooks = dict(
    logger=dict(interval=10, log_metric_by_epoch=False),
    checkpoint=dict(interval=300, by_epoch=False, max_keep_ckpts=1),
    fast_training=dict(type='FastTrainingHook'),
)
# Averages also the statistics of the batch norms, which come from two images at a time.
custom_hooks = [dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.01, gamma=100, update_buffers=True)]
log_processor = dict(by_epoch=False)
visualizer = dict(type='InstanceLocalVisualizer')
