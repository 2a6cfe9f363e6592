_base_ = [
    '../_base_/models/centermask-first_v39_fpn.py',
    '../_base_/datasets/coco_instance_ms-first.py',
    '../_base_/schedules/schedule_2x.py',
    '../_base_/iter_runtime.py',
]
