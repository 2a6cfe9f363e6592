train_cfg = dict(type='ReproducibleIterBasedTrainLoop', max_iters=180000, val_interval=5000)
val_cfg = dict(type='TeacherStudentValLoop')
test_cfg = dict(type='TestLoop')

param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', by_epoch=False, begin=0, end=180000, milestones=[179990, 179995], gamma=0.1),
]
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.006, momentum=0.9, weight_decay=0.0001),
    paramwise_cfg=dict(norm_decay_mult=0.0),
)
# The teacher keeps 0.9996 of itself at each step, buffers included.
custom_hooks = [dict(type='MeanTeacherHook', momentum=0.0004, skip_buffer=False)]

# lr is for 16 labelled and 16 unlabelled images a step: 8 GPUs x (2 + 2) images.
auto_scale_lr = dict(enable=False, base_batch_size=32)
