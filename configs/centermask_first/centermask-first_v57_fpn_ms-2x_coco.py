_base_ = './centermask-first_v39_fpn_ms-2x_coco.py'

model = dict(backbone=dict(arch='V-57', init_cfg=dict(checkpoint='checkpoints/vovnet57-ese_imagenet.pth')))
