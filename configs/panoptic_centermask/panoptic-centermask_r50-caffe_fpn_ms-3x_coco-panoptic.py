_base_ = [
    '../_base_/models/panoptic-centermask_r50-caffe_fpn.py',
    '../_base_/datasets/coco_panoptic_ms.py',
    '../_base_/schedules/schedule_3x.py',
    '../_base_/iter_runtime_panoptic.py',
]
