# A small CenterMask-Lite for the demo data set: trains from random weights in minutes on two CPU cores.
_base_ = [
    '../_base_/models/centermask-lite_v39_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    'mmdet::_base_/default_runtime.py',
]

data_root = 'data/demo/'
metainfo = dict(
    classes=('star', 'crescent', 'cross', 'gear', 'ring', 'blob'),
    palette=[(255, 196, 0), (0, 158, 224), (230, 57, 70), (122, 92, 250), (255, 127, 39), (46, 184, 92)],
)

num_classes = 6
max_iters = 1600
channels = 64

model = dict(
    data_preprocessor=dict(std=[57.375, 57.12, 58.395]),
    backbone=dict(_delete_=True, type='VoVNet', arch='V-19-slim', out_indices=(1, 2, 3)),
    neck=dict(
        _delete_=True,
        type='FPN',
        in_channels=[256, 384, 512],
        out_channels=channels,
        num_outs=3,
        norm_cfg=dict(type='BN'),
    ),
    bbox_head=dict(
        num_classes=num_classes,
        in_channels=channels,
        feat_channels=channels,
        strides=[8, 16, 32],
        regress_ranges=((-1, 24), (24, 48), (48, 100000000.0)),
    ),
    roi_head=dict(
        mask_roi_extractor=dict(out_channels=channels),
        mask_head=dict(
            in_channels=channels,
            conv_out_channels=channels,
            num_classes=num_classes,
            norm_cfg=dict(type='GN', num_groups=16),
        ),
        mask_iou_head=dict(
            in_channels=channels, conv_out_channels=channels, fc_out_channels=256, num_classes=num_classes
        ),
    ),
    train_cfg=dict(
        proposal=dict(max_per_img=50),
        # The RoIs cost most of a step: 10 positive ones of an image.
        rcnn=dict(sampler=dict(num=40)),
    ),
)

train_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='Resize', scale=(128, 128), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    batch_size=2,
    num_workers=1,
    sampler=dict(_delete_=True, type='InfiniteSampler', shuffle=True),
    dataset=dict(data_root=data_root, metainfo=metainfo, pipeline=train_pipeline),
)
val_dataloader = dict(num_workers=1, dataset=dict(data_root=data_root, metainfo=metainfo, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val2017.json')
test_evaluator = val_evaluator

train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=200)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=0.001, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
    clip_grad=dict(max_norm=10),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=max_iters, T_max=max_iters - 50, eta_min_ratio=0.01),
]
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=200, by_epoch=False, max_keep_ckpts=1),
)
log_processor = dict(by_epoch=False)
