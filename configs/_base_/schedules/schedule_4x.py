_base_ = './schedule_3x.py'

train_cfg = dict(max_iters=360000)
param_scheduler = [
    _base_.warmup,
    dict(type='MultiStepLR', by_epoch=False, begin=0, end=360000, milestones=[300000, 340000], gamma=0.1),
]
