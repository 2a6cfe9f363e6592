_base_ = './centermask_r50-caffe_fpn.py'

# CenterMask's first implementation: docs/differences.md says what each of these switches.
model = dict(
    data_preprocessor=dict(mean=[102.9801, 115.9465, 122.7717]),
    backbone=dict(norm_cfg=dict(eps=0.0)),
    bbox_head=dict(norm_on_bbox=False),
    roi_head=dict(
        mask_roi_extractor=dict(
            roi_layer=dict(sampling_ratio=2, aligned=False),
            inclusive_boxes=True,
            eps=1e-6,
        ),
    ),
    train_cfg=dict(
        inclusive_boxes=True,
        proposal=dict(score_thr=0.03, sqrt_score=False, clip_boxes=True, inclusive_boxes=True, nms=dict(offset=1)),
    ),
    test_cfg=dict(
        bbox_head=dict(score_thr=0.03, sqrt_score=False, clip_boxes=True, inclusive_boxes=True, nms=dict(offset=1)),
        rcnn=dict(inclusive_boxes=True),
    ),
)
