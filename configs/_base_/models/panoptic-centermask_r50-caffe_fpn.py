_base_ = './centermask_r50-caffe_fpn.py'

num_stuff_classes = 53

model = dict(
    type='PanopticCenterMask',
    data_preprocessor=dict(pad_seg=True, seg_pad_value=255),
    backbone=dict(out_indices=(0, 1, 2, 3)),
    # P2 is the semantic head's alone.
    neck=dict(in_channels=[256, 512, 1024, 2048], num_outs=6),
    semantic_head=dict(
        type='CenterMaskSemanticHead',
        num_things_classes=_base_.num_classes,
        num_stuff_classes=num_stuff_classes,
        in_channels=256,
        inner_channels=128,
    ),
    panoptic_fusion_head=dict(
        type='CenterMaskFusionHead', num_things_classes=_base_.num_classes, num_stuff_classes=num_stuff_classes
    ),
    test_cfg=dict(
        # Merging computes with bitmaps.
        rcnn=dict(rle_masks=False),
        panoptic=dict(score_thr=0.5, mask_overlap=0.5, stuff_area_limit=4096),
    ),
)
