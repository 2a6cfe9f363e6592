# On DLA-34 of timm (pip install timm), from random weights and with Adam as the paper. The neck is that of ResNet-18,
# not DLA's own upsampling.
_base_ = './centermask-points_r18_8xb16-crop512-140e_coco.py'

model = dict(
    backbone=dict(_delete_=True, type='TIMMBackbone', model_name='dla34', out_indices=(-1,)),
    bbox_head=dict(feat_channels=256),
)
optim_wrapper = dict(optimizer=dict(_delete_=True, type='Adam', lr=5e-4))
