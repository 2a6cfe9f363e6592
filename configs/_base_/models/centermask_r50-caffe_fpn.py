custom_imports = dict(imports=['mmdet_sag'], allow_failed_imports=False)

num_classes = 80

model = dict(
    type='CenterMask',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[103.53, 116.28, 123.675],
        std=[1.0, 1.0, 1.0],
        bgr_to_rgb=False,
        pad_mask=True,
        pad_size_divisor=32,
    ),
    backbone=dict(
        type='ResNet',
        depth=50,
        out_indices=(1, 2, 3),
        frozen_stages=1,
        norm_cfg=dict(type='BN', requires_grad=False),
        norm_eval=True,
        style='caffe',
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://detectron2/resnet50_caffe'),
    ),
    neck=dict(
        type='FPN',
        in_channels=[512, 1024, 2048],
        out_channels=256,
        num_outs=5,
        add_extra_convs='on_output',
        relu_before_extra_convs=True,
    ),
    bbox_head=dict(
        type='CenterMaskFCOSHead',
        num_classes=num_classes,
        in_channels=256,
        feat_channels=256,
        stacked_convs=4,
        strides=[8, 16, 32, 64, 128],
    ),
    roi_head=dict(
        type='CenterMaskRoIHead',
        mask_roi_extractor=dict(
            type='ScaleAdaptiveRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=14, sampling_ratio=0),
            out_channels=256,
            featmap_strides=[8, 16, 32],
        ),
        mask_head=dict(
            type='SAGMaskHead', num_convs=4, in_channels=256, conv_out_channels=256, num_classes=num_classes
        ),
        mask_iou_head=dict(
            type='CenterMaskIoUHead', num_convs=4, in_channels=256, conv_out_channels=256, num_classes=num_classes
        ),
    ),
    train_cfg=dict(
        proposal=dict(
            score_thr=0.05, nms_pre=1000, nms=dict(type='nms', iou_threshold=0.6, split_thr=0), max_per_img=100
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
    test_cfg=dict(
        # split_thr=0: NMS class by class. One NMS over classes set apart by an offset is only right for boxes inside
        # the image, and these are not clipped yet.
        bbox_head=dict(
            score_thr=0.05, nms_pre=1000, nms=dict(type='nms', iou_threshold=0.6, split_thr=0), max_per_img=50
        ),
        # Masks straight to COCO's run lengths, not by way of bitmaps of the image: the same bit by bit.
        rcnn=dict(mask_thr_binary=0.5, rle_masks=True),
    ),
)
