_base_ = './centermask-first-lite_v39_fpn_ms-4x_coco.py'

model = dict(backbone=dict(arch='V-19', init_cfg=dict(checkpoint='checkpoints/vovnet19-ese_imagenet.pth')))
