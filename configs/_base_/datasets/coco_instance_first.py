# Trained at one scale.
_base_ = './coco_instance_ms-first.py'

train_resize = [dict(type='ShortSideResize', scale=(1333, 800), backend='pillow')]
train_pipeline = [*_base_.load, *_base_.load_annotations, *train_resize, *_base_.flip, *_base_.train_pack]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
