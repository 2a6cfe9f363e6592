_base_ = [
    '../_base_/models/centermask-first_v39_fpn.py',
    '../_base_/datasets/coco_instance_first.py',
    '../_base_/schedules/schedule_1x.py',
    '../_base_/iter_runtime.py',
]

model = dict(backbone=dict(dcn=dict(type='DCNv2', deform_groups=1)))
