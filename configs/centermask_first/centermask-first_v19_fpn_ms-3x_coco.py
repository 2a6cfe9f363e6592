_base_ = './centermask-first_v39_fpn_ms-3x_coco.py'

model = dict(
    backbone=dict(arch='V-19', init_cfg=dict(checkpoint='checkpoints/vovnet19-ese_imagenet.pth')),
    roi_head=dict(mask_iou_head=None),
)
