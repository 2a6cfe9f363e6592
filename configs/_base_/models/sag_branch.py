# CenterMask's mask branch for a box detector of MMDetection whose first FPN levels have the strides 8, 16 and 32.
# A config inherits the detector too, sets model = _base_.sag_branch, and hands train_cfg and test_cfg of the box head
# over as bbox_head.
custom_imports = dict(imports=['mmdet_sag'], allow_failed_imports=False)

sag_branch = dict(
    type='CenterMask',
    data_preprocessor=dict(pad_mask=True, pad_size_divisor=32),
    roi_head=dict(
        type='CenterMaskRoIHead',
        mask_roi_extractor=dict(
            type='ScaleAdaptiveRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=14, sampling_ratio=0),
            out_channels=256,
            featmap_strides=[8, 16, 32],
        ),
        mask_head=dict(type='SAGMaskHead', num_convs=4, in_channels=256, conv_out_channels=256, num_classes=80),
        mask_iou_head=dict(
            type='CenterMaskIoUHead', num_convs=4, in_channels=256, conv_out_channels=256, num_classes=80
        ),
    ),
    train_cfg=dict(
        _delete_=True,
        proposal=dict(
            score_thr=0.05, nms_pre=1000, min_bbox_size=0, nms=dict(type='nms', iou_threshold=0.6), max_per_img=100
        ),
        rcnn=dict(
            assigner=dict(
                type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.5, match_low_quality=False
            ),
            sampler=dict(type='RandomSampler', num=512, pos_fraction=0.25, add_gt_as_proposals=True),
            mask_size=28,
            clip_mask_targets=False,
            mask_thr_binary=0.0,
        ),
    ),
    test_cfg=dict(_delete_=True, rcnn=dict(mask_thr_binary=0.5, rle_masks=True)),
)
