# The weights that come with the package: the demo's model, trained longer, on 25 times as many images
# (tools/dataset_converters/make_demo_dataset.py --num-train 10000 --out data/demo_10k).
_base_ = './centermask-lite_demo.py'

data_root = 'data/demo_10k/'
max_iters = 14000

train_dataloader = dict(batch_size=4, dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val2017.json')
test_evaluator = val_evaluator

train_cfg = dict(max_iters=max_iters, val_interval=2000)
param_scheduler = [
    _base_.warmup,
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=max_iters, T_max=max_iters - 50, eta_min_ratio=0.01),
]
default_hooks = dict(checkpoint=dict(interval=500))
optim_wrapper = dict(optimizer=dict(lr=0.001))
custom_hooks = [dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.0005, update_buffers=True)]
