# YOLOX-s with the mask branch of CenterMask. YOLOX's affine and batch-wise resizing lose masks in MMDetection: the
# recipe is RTMDet's, which grew out of YOLOX's.
_base_ = './centermask-rtmdet-s_8xb32-300e_coco.py'

# After _base_: MMEngine takes a config that begins with imports for one of its new style.
from mmengine.hub import get_config  # noqa: E402

yolox = get_config('mmdet::yolox/yolox_s_8xb8-300e_coco.py').model
model = dict(
    data_preprocessor=dict(mean=None, std=None),
    **{part: dict(yolox[part], _delete_=True) for part in ('backbone', 'neck', 'bbox_head')},
    train_cfg=dict(bbox_head=dict(_delete_=True, **yolox.train_cfg)),
    test_cfg=dict(bbox_head=dict(score_thr=0.01, nms=dict(iou_threshold=0.65))),
)
del yolox
