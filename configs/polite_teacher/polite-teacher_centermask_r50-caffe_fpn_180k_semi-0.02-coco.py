_base_ = './polite-teacher_centermask_r50-caffe_fpn_180k_semi-0.1-coco.py'

labelled_dataset = _base_.labelled_dataset
labelled_dataset.update(ann_file='semi_anns/instances_train2017.1@2.json')
unlabelled_dataset = _base_.unlabelled_dataset
unlabelled_dataset.update(ann_file='semi_anns/instances_train2017.1@2-unlabeled.json')
train_dataloader = dict(dataset=dict(datasets=[labelled_dataset, unlabelled_dataset]))

load_from = 'work_dirs/centermask_r50-caffe_fpn_15k_semi-0.02-coco/iter_15000.pth'
