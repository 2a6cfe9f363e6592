_base_ = './centermask-first_v39_fpn_ms-2x_coco.py'

model = dict(backbone=dict(arch='V-99', init_cfg=dict(checkpoint='checkpoints/vovnet99-ese_imagenet.pth')))
