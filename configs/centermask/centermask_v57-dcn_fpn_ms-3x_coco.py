_base_ = './centermask_v57_fpn_ms-3x_coco.py'

model = dict(backbone=dict(dcn=dict(type='DCNv2', deform_groups=1)))
