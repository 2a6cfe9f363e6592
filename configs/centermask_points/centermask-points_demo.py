# A small model for the demo data set, with the data and the recipe of CenterMask-Lite's.
_base_ = '../centermask_lite/centermask-lite_demo.py'

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
