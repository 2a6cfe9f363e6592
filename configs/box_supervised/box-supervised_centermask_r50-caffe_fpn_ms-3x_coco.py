# CenterMask on COCO without its masks.
_base_ = ['../centermask/centermask_r50-caffe_fpn_ms-3x_coco.py', '../_base_/models/box_supervision.py']

model = _base_.box_supervision
model['roi_head']['mask_iou_head'] = None

load_annotations = [
    dict(type='LoadMaskOrBoxAnnotations', with_bbox=True, with_mask=True, poly2mask=False, boxes_only=True)
]
train_pipeline = [*_base_.load, *load_annotations, *_base_.train_resize, *_base_.flip, *_base_.train_pack]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
