_base_ = './coco_instance_ms.py'

train_resize = [dict(type='RandomChoiceResize', scales=[(1000, 580), (1000, 600)], keep_ratio=True, backend='pillow')]
test_resize = [dict(type='Resize', scale=(1000, 600), keep_ratio=True, backend='pillow')]

train_pipeline = [*_base_.load, *_base_.load_annotations, *train_resize, *_base_.flip, *_base_.train_pack]
test_pipeline = [*_base_.load, *test_resize, *_base_.load_annotations, *_base_.test_pack]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

tta_resize = [
    dict(type='Resize', scale=(2000, side), keep_ratio=True, backend='pillow') for side in (400, 500, 600, 700, 800)
]
tta_pipeline = [*_base_.load, dict(type='TestTimeAug', transforms=[tta_resize, *_base_.tta_views])]
