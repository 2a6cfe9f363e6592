# Baseline of polite-teacher_centermask-lite_demo.py, which starts from its iteration 3200.
_base_ = './centermask-lite_demo_semi-0.1.py'

max_iters = 4500
train_cfg = dict(max_iters=max_iters)
param_scheduler = _base_.param_scheduler
param_scheduler[1].update(end=max_iters, T_max=max_iters - 50)
default_hooks = dict(checkpoint=dict(interval=800, max_keep_ckpts=-1))
