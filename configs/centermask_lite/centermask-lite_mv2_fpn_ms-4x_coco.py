_base_ = './centermask-lite_v39_fpn_ms-4x_coco.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='HeadlessMobileNetV2',
        norm_cfg=dict(type='BN', requires_grad=False),
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/mobilenet-v2_imagenet.pth'),
    ),
    neck=dict(in_channels=[32, 96, 320]),
)
