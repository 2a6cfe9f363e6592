_base_ = 'mmdet::scnet/scnet_r50_fpn_1x_coco.py'

custom_imports = dict(imports=['mmdet_sag'], allow_failed_imports=False)

model = dict(roi_head=dict(mask_head=dict(type='SAGSCNetMaskHead')))
