# The authors' schedule and augmentation, as MMSegmentation's transforms.
_base_ = 'mmseg::_base_/default_runtime.py'

jitter = [
    dict(type='mmdet.Color', prob=0.5, min_mag=0.0, max_mag=2.0),
    dict(type='mmdet.Brightness', prob=0.5, min_mag=1.0, max_mag=2.0),
    dict(type='mmdet.Contrast', prob=0.5, min_mag=1.0, max_mag=2.0),
    dict(type='mmdet.Sharpness', prob=0.5, min_mag=0.0, max_mag=2.0),
]
augmentation = [
    dict(type='RandomRotate', prob=0.5, degree=180, seg_pad_val=0),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='RandomFlip', prob=0.5, direction='vertical'),
    *jitter,
]
load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
augmented_pipeline = [*load, *augmentation, dict(type='PackSegInputs')]
# An epoch sees each image so often, augmented differently each time.
times = 13
sampler = dict(type='DefaultSampler', shuffle=True)

optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=0.001))
param_scheduler = [dict(type='MultiStepLR', by_epoch=True, milestones=[100], gamma=0.1)]
train_cfg = dict(type='mmdet.ReproducibleEpochBasedTrainLoop', max_epochs=150, val_interval=10)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
log_processor = dict(by_epoch=True)
default_hooks = dict(
    checkpoint=dict(type='mmdet.AtomicCheckpointHook', interval=10, max_keep_ckpts=3),
    loss_guard=dict(type='mmdet.LossGuardHook'),
    preemption=dict(type='mmdet.PreemptionHook'),
    visualization=dict(type='SegVisualizationHook'),
)
