_base_ = './schedule_3x.py'

train_cfg = dict(max_iters=90000)
param_scheduler = [
    _base_.warmup,
    dict(type='MultiStepLR', by_epoch=False, begin=0, end=90000, milestones=[60000, 80000], gamma=0.1),
]
