# The variant beside FCOS for the demo data set: CenterMask-Lite's backbone, box head and schedule.
_base_ = '../centermask_lite/centermask-lite_demo.py'

model = dict(
    _delete_=True,
    type='PointCenterMask',
    data_preprocessor=_base_.model.data_preprocessor,
    backbone=_base_.model.backbone,
    neck=_base_.model.neck,
    bbox_head=dict(_base_.model.bbox_head, type='PointCenterMaskFCOSHead', saliency='class-specific', mask_size=32),
    test_cfg=_base_.model.test_cfg.bbox_head,
)
