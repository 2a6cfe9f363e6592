# MMDetection's Mask R-CNN on COCO without its masks. The proposals of its RPN reach beyond the boxes by themselves.
_base_ = ['mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', '../_base_/models/box_supervision.py']

custom_imports = dict(imports=['mmdet_sag'], allow_failed_imports=False)

model = dict(
    data_preprocessor=_base_.box_supervision.data_preprocessor,
    roi_head=dict(mask_head=dict(_base_.box_supervision.roi_head.mask_head, type='BoxSupervisedFCNMaskHead')),
)
train_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='LoadMaskOrBoxAnnotations', with_bbox=True, with_mask=True, poly2mask=False, boxes_only=True),
    dict(type='Resize', scale=(1333, 800), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
