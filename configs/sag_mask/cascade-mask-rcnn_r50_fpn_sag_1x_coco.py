_base_ = 'mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py'

custom_imports = dict(imports=['mmdet_sag'], allow_failed_imports=False)

model = dict(roi_head=dict(mask_head=dict(type='SAGMaskHead')))
