# Supervised twin of polite-teacher_centermask-lite_demo.py: the same labels, for as long as its burn-in and itself.
_base_ = '../centermask_lite/centermask-lite_demo.py'

max_iters = 7500
train_dataloader = dict(dataset=dict(ann_file='semi_anns/instances_train2017.1@10.json'))
train_cfg = dict(max_iters=max_iters, val_interval=750)
param_scheduler = _base_.param_scheduler
param_scheduler[1].update(end=max_iters, T_max=max_iters - 50)
