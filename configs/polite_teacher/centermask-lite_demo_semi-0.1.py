# Supervised twin of polite-teacher_centermask-lite_demo.py: the same labels.
_base_ = '../centermask_lite/centermask-lite_demo.py'

train_dataloader = dict(dataset=dict(ann_file='semi_anns/instances_train2017.1@10.json'))
