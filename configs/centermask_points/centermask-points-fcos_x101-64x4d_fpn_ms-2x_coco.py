# On ResNeXt-101, with the recipe of MMDetection's FCOS on it.
_base_ = 'mmdet::fcos/fcos_x101-64x4d_fpn_gn-head_ms-640-800-2x_coco.py'

model = dict(
    type='PointCenterMask',
    bbox_head=dict(type='PointCenterMaskFCOSHead', saliency='class-specific', loss_bbox=dict(type='GIoULoss')),
    # Class by class: boxes are not clipped yet.
    test_cfg=dict(nms=dict(iou_threshold=0.6, split_thr=0)),
)

load_masks = dict(type='LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=False)
train_pipeline = [load_masks if step.type == 'LoadAnnotations' else step for step in _base_.train_pipeline]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_evaluator = dict(metric=['bbox', 'segm'])
test_evaluator = val_evaluator
