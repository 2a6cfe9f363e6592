_base_ = './panoptic-centermask_r50-caffe_fpn_ms-3x_coco-panoptic.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='VoVNet',
        arch='V-39',
        out_indices=(0, 1, 2, 3),
        norm_cfg=dict(type='BN', requires_grad=False),
        norm_eval=True,
        # ImageNet weights: see docs/checkpoints.md for the command that makes this file.
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/vovnet39-ese_imagenet.pth'),
    ),
    neck=dict(in_channels=[256, 512, 768, 1024]),
)
