_base_ = [
    '../_base_/models/centermask-lite_v39_fpn.py',
    '../_base_/datasets/semi_coco_instance_ms.py',
    '../_base_/iter_runtime.py',
    '../_base_/schedules/polite-teacher_180k.py',
]

detector = _base_.model
model = dict(
    _delete_=True,
    type='PoliteTeacher',
    detector=detector,
    data_preprocessor=dict(type='MultiBranchDataPreprocessor', data_preprocessor=detector.data_preprocessor),
)

labelled_dataset = _base_.labelled_dataset
labelled_dataset.pipeline[2].update(scales=[(1000, 580), (1000, 600)])
unlabelled_dataset = _base_.unlabelled_dataset
unlabelled_dataset.pipeline[2].update(scales=[(1000, 580), (1000, 600)])
train_dataloader = dict(dataset=dict(datasets=[labelled_dataset, unlabelled_dataset]))
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=(1000, 600))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
default_hooks = dict(checkpoint=dict(save_best='teacher/coco/segm_mAP'))

load_from = 'work_dirs/centermask-lite_v39_fpn_15k_semi-0.1-coco/iter_15000.pth'
