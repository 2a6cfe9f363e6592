_base_ = ['./centermask-first_r50-caffe_fpn_ms-3x_coco.py', '../_base_/models/resnext101_32x8d.py']

model = dict(backbone=_base_.resnext101_32x8d)
