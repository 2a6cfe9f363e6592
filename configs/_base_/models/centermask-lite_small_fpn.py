# For small images and small data sets: 2.3 million parameters, features of stride 4, trained from random weights.
# Stride 32 is made from stride 16.
_base_ = './centermask-lite_v39_fpn.py'

channels = 64

model = dict(
    data_preprocessor=dict(std=[57.375, 57.12, 58.395]),
    backbone=dict(_delete_=True, type='VoVNet', arch='V-19-slim', out_indices=(0, 1, 2)),
    neck=dict(
        _delete_=True,
        type='FPN',
        in_channels=[112, 256, 384],
        out_channels=channels,
        num_outs=4,
        norm_cfg=dict(type='BN'),
    ),
    bbox_head=dict(
        in_channels=channels,
        feat_channels=channels,
        # Stride 4 has what masks of small objects are made of; strides 64 and 128 would have 2x2 and 1x1 locations in
        # images of 128 pixels.
        strides=[4, 8, 16, 32],
        regress_ranges=((-1, 24), (24, 48), (48, 80), (80, 100000000.0)),
    ),
    roi_head=dict(
        mask_roi_extractor=dict(out_channels=channels, featmap_strides=[4, 8, 16]),
        mask_head=dict(in_channels=channels, conv_out_channels=channels, norm_cfg=dict(type='GN', num_groups=16)),
        mask_iou_head=dict(in_channels=channels, conv_out_channels=channels, fc_out_channels=128),
    ),
    train_cfg=dict(
        proposal=dict(max_per_img=50),
        # A quarter is positive: 10 RoIs of an image go through the mask branch, which costs most of a step.
        rcnn=dict(sampler=dict(num=40)),
    ),
)
