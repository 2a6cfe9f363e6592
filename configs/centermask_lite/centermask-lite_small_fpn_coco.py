# For small data sets of one's own, with make_config.py: it starts from the weights that come with the package, which
# know shapes, not things. It was not trained on COCO.
_base_ = [
    '../_base_/models/centermask-lite_small_fpn.py',
    '../_base_/datasets/coco_instance_ms-lite.py',
    '../_base_/schedules/schedule_1x.py',
    '../_base_/iter_runtime.py',
]

train_dataloader = dict(batch_size=4)
param_scheduler = [
    _base_.warmup,
    dict(type='CosineAnnealingLR', by_epoch=False, begin=1000, end=90000, T_max=89000, eta_min_ratio=0.01),
]
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=0.001, weight_decay=0.05), clip_grad=dict(max_norm=10)
)
auto_scale_lr = dict(base_batch_size=4)
load_from = '{{ fileDirname }}/centermask-lite_demo-14k.pth'
