# Supervised baseline on 10 % of the labels, and the burn-in of the teacher.
_base_ = [
    '../_base_/models/centermask_r50-caffe_fpn.py',
    '../_base_/datasets/coco_instance_ms.py',
    '../_base_/iter_runtime.py',
    '../_base_/schedules/burn-in_15k.py',
]

train_dataloader = dict(batch_size=4, dataset=dict(ann_file='semi_anns/instances_train2017.1@10.json'))
default_hooks = dict(checkpoint=dict(interval=5000))
