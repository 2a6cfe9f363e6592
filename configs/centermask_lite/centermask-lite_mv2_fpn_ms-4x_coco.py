_base_ = ['./centermask-lite_v39_fpn_ms-4x_coco.py', '../_base_/models/mobilenet_v2.py']

model = dict(backbone=_base_.mobilenet_v2, neck=dict(in_channels=[32, 96, 320]))
