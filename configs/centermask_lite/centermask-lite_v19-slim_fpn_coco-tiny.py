# A real but tiny part of COCO, 80 + 80 images in COCO's own layout, for trials on one CPU from random weights.
_base_ = './centermask-lite_v19-slim_fpn_ms-4x_coco.py'

# After _base_: MMEngine takes a config that begins with imports for one of its new style.
import torch  # noqa: E402
from mmengine.utils import digit_version  # noqa: E402

data_root = '{{$MMDET_SAG_COCO_TINY:../shared/data/coco_tiny}}'

model = dict(backbone=dict(norm_cfg=dict(requires_grad=True), norm_eval=False, init_cfg=None))

train_resize = test_resize = [dict(type='Resize', scale=(533, 320), keep_ratio=True, backend='pillow')]
train_pipeline = [*_base_.load, *_base_.load_annotations, *train_resize, *_base_.flip, *_base_.train_pack]
test_pipeline = [*_base_.load, *test_resize, *_base_.load_annotations, *_base_.test_pack]

train_dataloader = dict(batch_size=4, dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + '/annotations/instances_val2017.json')
test_evaluator = val_evaluator

train_cfg = dict(max_iters=1000, val_interval=500)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=1000, eta_min_ratio=0.01),
]
optim_wrapper = dict(
    # PyTorch has the fused step on a CPU since 2.4.
    optimizer=dict(
        _delete_=True,
        type='AdamW',
        lr=5e-4,
        weight_decay=0.05,
        fused=digit_version(torch.__version__) >= digit_version('2.4'),
    ),
    clip_grad=dict(max_norm=10),
)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=500))
