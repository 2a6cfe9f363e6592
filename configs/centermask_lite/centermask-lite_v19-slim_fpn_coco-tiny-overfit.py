# Can it fit? Trained and evaluated on the same 8 images.
_base_ = './centermask-lite_v19-slim_fpn_coco-tiny.py'

flip = [dict(type='RandomFlip', prob=0.0)]
train_pipeline = [*_base_.load, *_base_.load_annotations, *_base_.train_resize, *flip, *_base_.train_pack]
# Each image carries its annotations, so that the evaluator counts these 8 images alone.
test_pack = [
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'instances'),
    )
]
test_pipeline = [*_base_.load, *_base_.test_resize, *_base_.load_annotations, *test_pack]

train_dataloader = dict(batch_size=4, dataset=dict(indices=8, pipeline=train_pipeline))
val_dataloader = dict(
    dataset=dict(
        ann_file='annotations/instances_train2017.json',
        data_prefix=dict(img='train2017/'),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        test_mode=False,
        indices=8,
        pipeline=test_pipeline,
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=None)
test_evaluator = val_evaluator

train_cfg = dict(max_iters=400, val_interval=200)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=20),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=20, end=400, eta_min_ratio=0.01),
]
