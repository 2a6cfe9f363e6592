_base_ = './coco_instance_ms.py'

train_pipeline = _base_.train_pipeline
train_pipeline[2] = dict(
    type='RandomResize', scale=[(1333, 640), (1333, 800)], resize_type='ShortSideResize', backend='pillow'
)
test_pipeline = _base_.test_pipeline
test_pipeline[1] = dict(type='ShortSideResize', scale=(1333, 800), backend='pillow')

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

tta_model = dict(tta_cfg=dict(nms=dict(offset=1)))
tta_pipeline = _base_.tta_pipeline
tta_pipeline[1]['transforms'][0] = [
    dict(type='ShortSideResize', scale=(4000, side), backend='pillow')
    for side in (400, 500, 600, 700, 800, 900, 1000, 1100, 1200)
]
