_base_ = './coco_instance_ms-first.py'

train_pipeline = _base_.train_pipeline
train_pipeline[2].update(scale=[(1000, 580), (1000, 600)])
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=(1000, 600))

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

tta_pipeline = _base_.tta_pipeline
tta_pipeline[1]['transforms'][0] = [
    dict(type='ShortSideResize', scale=(2000, side), backend='pillow') for side in (400, 500, 600, 700, 800)
]
