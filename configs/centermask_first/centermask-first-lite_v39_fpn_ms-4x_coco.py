_base_ = './centermask-first-lite_r50-caffe_fpn_ms-4x_coco.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='VoVNet',
        arch='V-39',
        out_indices=(1, 2, 3),
        norm_cfg=dict(type='BN', requires_grad=False, eps=1.2e-38),
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/vovnet39-ese_imagenet.pth'),
    ),
    neck=dict(in_channels=[512, 768, 1024]),
)
