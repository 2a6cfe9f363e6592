# Baseline of polite-teacher_centermask-lite_demo.py, which starts from its iteration 3200.
_base_ = '../centermask_lite/centermask-lite_demo.py'

max_iters = 4500
# As the figures of docs/semi_supervised.md were measured: with the last stage of the backbone, at a lower learning rate
# and without averaged weights.
model = dict(
    backbone=dict(out_indices=(0, 1, 2, 3)),
    neck=dict(in_channels=[112, 256, 384, 512]),
    roi_head=dict(mask_iou_head=dict(fc_out_channels=256)),
)
train_dataloader = dict(dataset=dict(ann_file='semi_anns/instances_train2017.1@10.json'))
train_cfg = dict(max_iters=max_iters, val_interval=500)
param_scheduler = [_base_.warmup, dict(_base_.cosine, end=max_iters, T_max=max_iters - 50)]
default_hooks = dict(checkpoint=dict(interval=800, max_keep_ckpts=-1))
optim_wrapper = dict(optimizer=dict(lr=0.001))
custom_hooks = []
