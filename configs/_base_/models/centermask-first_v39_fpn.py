_base_ = './centermask-first_r50-caffe_fpn.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='VoVNet',
        arch='V-39',
        out_indices=(1, 2, 3),
        norm_cfg=dict(type='BN', requires_grad=False, eps=1.2e-38),
        norm_eval=True,
        # ImageNet weights: see docs/checkpoints.md for the command that makes this file.
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/vovnet39-ese_imagenet.pth'),
    ),
    neck=dict(in_channels=[512, 768, 1024]),
)
