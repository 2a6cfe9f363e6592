_base_ = './centermask-first_v39-dcn_fpn_1x_coco.py'

model = dict(backbone=dict(arch='V-57', init_cfg=dict(checkpoint='checkpoints/vovnet57-ese_imagenet.pth')))
