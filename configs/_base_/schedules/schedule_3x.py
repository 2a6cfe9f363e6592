train_cfg = dict(type='ReproducibleIterBasedTrainLoop', max_iters=270000, val_interval=10000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

warmup = dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000)
param_scheduler = [
    warmup,
    dict(type='MultiStepLR', by_epoch=False, begin=0, end=270000, milestones=[210000, 250000], gamma=0.1),
]
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0001),
    paramwise_cfg=dict(norm_decay_mult=0.0),
)

# lr is for 16 images a step: 8 GPUs x 2 images.
auto_scale_lr = dict(enable=False, base_batch_size=16)
