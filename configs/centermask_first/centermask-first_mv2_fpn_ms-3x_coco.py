_base_ = ['./centermask-first_r50-caffe_fpn_ms-3x_coco.py', '../_base_/models/mobilenet_v2.py']

model = dict(
    backbone=dict(_base_.mobilenet_v2, norm_cfg=dict(type='BN', requires_grad=False, eps=1.2e-38)),
    neck=dict(in_channels=[32, 96, 320]),
    roi_head=dict(mask_iou_head=None),
)
