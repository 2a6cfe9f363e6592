# RTMDet-tiny with the mask branch of CenterMask, and with the recipe of RTMDet-Ins-tiny.
_base_ = ['mmdet::rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py', '../_base_/models/sag_branch_lite.py']

# After _base_: MMEngine takes a config that begins with imports for one of its new style.
from mmengine.hub import get_config  # noqa: E402

rtmdet = get_config('mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py').model
model = _base_.sag_branch
model.bbox_head = dict(rtmdet.bbox_head, _delete_=True)
model.roi_head.mask_roi_extractor.out_channels = 96
model.roi_head.mask_head.in_channels = 96
model.roi_head.mask_iou_head.in_channels = 96
model.train_cfg.bbox_head = rtmdet.train_cfg
model.test_cfg.bbox_head = _base_.model.test_cfg
del rtmdet

# Without padding to 640x640: the data preprocessor pads as far as a batch needs, as exported models do.
test_pipeline = [step for step in _base_.test_pipeline if step.type != 'Pad']
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

# The learning rate is that of 8 processes; MMDetection's config says 16 images.
auto_scale_lr = dict(base_batch_size=256)
