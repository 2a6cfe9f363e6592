_base_ = ['./centermask_r50-caffe_fpn_ms-3x_coco.py', '../_base_/models/resnext101_32x8d.py']

model = dict(data_preprocessor=dict(std=[57.375, 57.12, 58.395]), backbone=_base_.resnext101_32x8d)
