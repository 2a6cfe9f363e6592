# With the IoU head, which the model of the longer schedule lacks.
_base_ = [
    '../_base_/models/centermask-first_r50-caffe_fpn.py',
    '../_base_/models/mobilenet_v2.py',
    '../_base_/datasets/coco_instance_first.py',
    '../_base_/schedules/schedule_1x.py',
    '../_base_/iter_runtime.py',
]

model = dict(
    backbone=dict(_base_.mobilenet_v2, norm_cfg=dict(type='BN', requires_grad=False, eps=1.2e-38)),
    neck=dict(in_channels=[32, 96, 320]),
)
