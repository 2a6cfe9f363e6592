# For two CPU cores: half the image size, crops, no DropBlock and some minutes. The metric counts at the full size.
_base_ = './sa-unet_1xb2-150e_chase-db1-1008x1008.py'

model = dict(backbone=dict(drop_prob=0))
half = dict(type='Resize', scale_factor=0.5, keep_ratio=True)
rotate, *flips = _base_.augmentation[:3]
pack = dict(type='PackSegInputs')
train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    sampler=dict(type='InfiniteSampler'),
    dataset=dict(
        dataset=dict(
            pipeline=[
                *_base_.load,
                half,
                rotate,
                dict(type='RandomCrop', crop_size=(128, 128)),
                *flips,
                pack,
            ]
        )
    ),
)
val_dataloader = dict(
    num_workers=1,
    dataset=dict(pipeline=[dict(type='LoadImageFromFile'), half, dict(type='LoadAnnotations'), pack]),
)
test_dataloader = val_dataloader
flips_of_test = [dict(type='RandomFlip', prob=prob) for prob in (0.0, 1.0)]
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    half,
    dict(type='TestTimeAug', transforms=[flips_of_test, [dict(type='LoadAnnotations')], [pack]]),
]

max_iters = 1500
optim_wrapper = dict(optimizer=dict(lr=0.002))
train_cfg = dict(
    _delete_=True, type='mmdet.ReproducibleIterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters
)
param_scheduler = [dict(type='CosineAnnealingLR', by_epoch=False, T_max=max_iters)]
log_processor = dict(by_epoch=False)
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    checkpoint=dict(interval=max_iters, by_epoch=False),
)
