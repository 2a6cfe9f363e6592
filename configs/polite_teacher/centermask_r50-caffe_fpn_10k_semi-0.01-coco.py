_base_ = './centermask_r50-caffe_fpn_15k_semi-0.1-coco.py'

train_dataloader = dict(dataset=dict(ann_file='semi_anns/instances_train2017.1@1.json'))
train_cfg = dict(max_iters=10000)
