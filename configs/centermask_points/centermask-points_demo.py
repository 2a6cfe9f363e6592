# A small model for the demo data set, with CenterMask-Lite's data and backbone. A step takes less time than
# CenterMask-Lite's, so there are more of them.
_base_ = '../centermask_lite/centermask-lite_demo.py'

max_iters = 2200
model = dict(
    _delete_=True,
    type='PointCenterMask',
    data_preprocessor=_base_.model.data_preprocessor,
    backbone=_base_.model.backbone,
    neck=_base_.model.neck,
    # On the level of stride 4.
    bbox_head=dict(
        type='PointCenterMaskHead',
        in_channels=64,
        feat_channels=64,
        num_classes=6,
        level=0,
        saliency='class-specific',
        mask_size=32,
    ),
    test_cfg=dict(max_per_img=100, local_maximum_kernel=3),
)
train_cfg = dict(max_iters=max_iters, val_interval=550)
param_scheduler = [_base_.warmup, dict(_base_.cosine, end=max_iters, T_max=max_iters - 50)]
default_hooks = dict(checkpoint=dict(interval=550))
optim_wrapper = dict(optimizer=dict(lr=0.001))
custom_hooks = []
