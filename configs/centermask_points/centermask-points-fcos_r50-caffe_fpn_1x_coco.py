# Beside FCOS with the recipe of MMDetection's, whose published weights fit.
_base_ = 'mmdet::fcos/fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco.py'

model = dict(
    type='PointCenterMask',
    bbox_head=dict(
        _delete_=True,
        type='PointCenterMaskFCOSHead',
        num_classes=80,
        in_channels=256,
        strides=[8, 16, 32, 64, 128],
        loss_bbox=dict(type='GIoULoss'),
        saliency='class-specific',
    ),
    # Class by class: boxes are not clipped yet.
    test_cfg=dict(nms=dict(split_thr=0)),
)

load_masks = dict(type='LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=False)
train_pipeline = [load_masks if step.type == 'LoadAnnotations' else step for step in _base_.train_pipeline]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_evaluator = dict(metric=['bbox', 'segm'])
test_evaluator = val_evaluator
