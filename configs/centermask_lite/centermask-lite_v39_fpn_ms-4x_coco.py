_base_ = [
    '../_base_/models/centermask-lite_v39_fpn.py',
    '../_base_/datasets/coco_instance_ms-lite.py',
    '../_base_/schedules/schedule_4x.py',
    '../_base_/iter_runtime.py',
]
