_base_ = [
    '../_base_/models/centermask-lite_v39_fpn.py',
    '../_base_/datasets/coco_instance_ms-lite.py',
    '../_base_/iter_runtime.py',
    '../_base_/schedules/burn-in_15k.py',
]

train_dataloader = dict(batch_size=4, dataset=dict(ann_file='semi_anns/instances_train2017.1@10.json'))
default_hooks = dict(checkpoint=dict(interval=5000))
