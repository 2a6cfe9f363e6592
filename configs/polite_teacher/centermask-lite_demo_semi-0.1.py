# Baseline of polite-teacher_centermask-lite_demo.py, which starts from its iteration 3200.
_base_ = '../centermask_lite/centermask-lite_demo.py'

max_iters = 4500
train_dataloader = dict(dataset=dict(ann_file='semi_anns/instances_train2017.1@10.json'))
train_cfg = dict(max_iters=max_iters, val_interval=500)
param_scheduler = [_base_.warmup, dict(_base_.cosine, end=max_iters, T_max=max_iters - 50)]
default_hooks = dict(checkpoint=dict(interval=800, max_keep_ckpts=-1))
