_base_ = './centermask_r50-caffe_fpn.py'

# CenterMask's first implementation: docs/differences.md says what each of these switches.
box_cfg = dict(score_thr=0.03, sqrt_score=False, clip_boxes=True, nms=dict(offset=1))
model = dict(
    inclusive_boxes=True,
    data_preprocessor=dict(mean=[102.9801, 115.9465, 122.7717]),
    # None, as far as float32 goes: PyTorch wants a positive number.
    backbone=dict(norm_cfg=dict(eps=1.2e-38)),
    bbox_head=dict(norm_on_bbox=False),
    roi_head=dict(mask_roi_extractor=dict(roi_layer=dict(sampling_ratio=2, aligned=False), eps=1e-6)),
    train_cfg=dict(proposal=box_cfg),
    test_cfg=dict(bbox_head=box_cfg),
)
