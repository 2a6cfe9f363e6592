_base_ = 'mmdet::_base_/datasets/coco_instance.py'

# The stages of the pipelines. A config that inherits this one replaces a stage and joins the pipeline again. Stages are
# lists because MMEngine replaces a list, but merges a dict with the inherited one.
# Pillow's bilinear filter is the one that the published models were trained and tested with.
load = [dict(type='LoadImageFromFile', backend_args=_base_.backend_args)]
load_annotations = [dict(type='LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=False)]
train_resize = [
    dict(
        type='RandomChoiceResize',
        scales=[(1333, 640), (1333, 672), (1333, 704), (1333, 736), (1333, 768), (1333, 800)],
        keep_ratio=True,
        backend='pillow',
    )
]
test_resize = [dict(type='Resize', scale=(1333, 800), keep_ratio=True, backend='pillow')]
flip = [dict(type='RandomFlip', prob=0.5)]
train_pack = [dict(type='PackDetInputs')]
test_pack = [dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]

train_pipeline = [*load, *load_annotations, *train_resize, *flip, *train_pack]
test_pipeline = [*load, *test_resize, *load_annotations, *test_pack]

train_dataloader = dict(
    sampler=dict(_delete_=True, type='InfiniteSampler', shuffle=True), dataset=dict(pipeline=train_pipeline)
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='UnroundedCocoMetric')
test_evaluator = val_evaluator

tta_model = dict(
    type='CenterMaskTTAModel',
    tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.6, split_thr=0), max_per_img=100),
)
# Test-time augmentation: the sizes, and what follows for each of them.
tta_resize = [
    dict(type='Resize', scale=(4000, side), keep_ratio=True, backend='pillow')
    for side in (400, 500, 600, 700, 800, 900, 1000, 1100, 1200)
]
tta_views = [
    [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
    load_annotations,
    [
        dict(
            type='PackDetInputs',
            meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction'),
        )
    ],
]
tta_pipeline = [*load, dict(type='TestTimeAug', transforms=[tta_resize, *tta_views])]
