_base_ = 'mmdet::htc/htc_r50_fpn_1x_coco.py'

custom_imports = dict(imports=['mmdet_sag'], allow_failed_imports=False)

model = dict(
    roi_head=dict(mask_head=[dict(mask_head, type='SAGHTCMaskHead') for mask_head in _base_.model.roi_head.mask_head])
)
