# On ResNet-18 and upsampling without deformable convolutions, which plain runtimes lack.
_base_ = 'mmdet::centernet/centernet_r18_8xb16-crop512-140e_coco.py'

model = dict(
    type='PointCenterMask',
    data_preprocessor=dict(pad_size_divisor=32),
    bbox_head=dict(type='PointCenterMaskHead', saliency='class-specific'),
)

changes = dict(LoadAnnotations=dict(with_mask=True), RandomCenterCropPad=dict(type='RandomCenterCropPadWithMasks'))
train_pipeline = [{**step, **changes.get(step.type, {})} for step in _base_.train_pipeline]
test_pipeline = [
    dict(type='LoadImageFromFile', backend_args=_base_.backend_args),
    # COCO's images keep their size. Exported models can pad on the right and below only.
    dict(type='Resize', scale=(640, 640), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(metric=['bbox', 'segm'])
test_evaluator = val_evaluator
