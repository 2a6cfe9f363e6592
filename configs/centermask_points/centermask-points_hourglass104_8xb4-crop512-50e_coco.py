# On Hourglass-104, from random weights and with Adam as the paper. The heads stand on the second stack alone.
_base_ = './centermask-points_r18_8xb16-crop512-140e_coco.py'

model = dict(
    data_preprocessor=dict(pad_size_divisor=128),
    backbone=dict(
        _delete_=True,
        type='HourglassNet',
        downsample_times=5,
        num_stacks=2,
        stage_channels=[256, 256, 384, 384, 384, 512],
        stage_blocks=[2, 2, 2, 2, 2, 4],
    ),
    neck=None,
    bbox_head=dict(in_channels=256, feat_channels=256),
)
train_dataloader = dict(batch_size=4)
optim_wrapper = dict(optimizer=dict(_delete_=True, type='Adam', lr=2.5e-4))
# The data are repeated five times: 50 epochs, the last ten at a tenth of the rate.
train_cfg = dict(max_epochs=10)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', begin=0, end=10, by_epoch=True, milestones=[8], gamma=0.1),
]
auto_scale_lr = dict(base_batch_size=32)
