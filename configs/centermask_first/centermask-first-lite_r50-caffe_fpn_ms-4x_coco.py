_base_ = [
    '../_base_/models/centermask-first-lite_r50-caffe_fpn.py',
    '../_base_/datasets/coco_instance_ms-first-lite.py',
    '../_base_/schedules/schedule_4x.py',
    '../_base_/iter_runtime.py',
]
