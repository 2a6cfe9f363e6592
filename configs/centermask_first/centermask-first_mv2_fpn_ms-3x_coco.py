_base_ = './centermask-first_r50-caffe_fpn_ms-3x_coco.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='HeadlessMobileNetV2',
        norm_cfg=dict(type='BN', requires_grad=False, eps=0.0),
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/mobilenet-v2_imagenet.pth'),
    ),
    neck=dict(in_channels=[32, 96, 320]),
    roi_head=dict(mask_iou_head=None),
)
