_base_ = './panoptic-centermask_v39_fpn_ms-3x_coco-panoptic.py'

model = dict(backbone=dict(arch='V-99', init_cfg=dict(checkpoint='checkpoints/vovnet99-ese_imagenet.pth')))
