_base_ = './centermask-lite_v39_fpn_ms-4x_coco.py'

model = dict(
    backbone=dict(arch='V-19-slim', init_cfg=dict(checkpoint='checkpoints/vovnet19-slim-ese_imagenet.pth')),
    neck=dict(in_channels=[256, 384, 512]),
)
