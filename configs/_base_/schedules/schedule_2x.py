_base_ = './schedule_3x.py'

train_cfg = dict(max_iters=180000)
param_scheduler = [
    _base_.warmup,
    dict(type='MultiStepLR', by_epoch=False, begin=0, end=180000, milestones=[120000, 160000], gamma=0.1),
]
