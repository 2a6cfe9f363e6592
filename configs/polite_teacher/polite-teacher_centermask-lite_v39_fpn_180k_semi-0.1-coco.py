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

train_resize = [dict(type='RandomChoiceResize', scales=[(1000, 580), (1000, 600)], keep_ratio=True, backend='pillow')]
test_resize = [dict(type='Resize', scale=(1000, 600), keep_ratio=True, backend='pillow')]

geometry = [*train_resize, *_base_.flip]
labelled_pipeline = [*_base_.load, *_base_.load_annotations, *geometry, *_base_.labelled_branches]
unlabelled_pipeline = [*_base_.load, *_base_.load_no_annotations, *geometry, *_base_.unlabelled_branches]
labelled_dataset = dict(_base_.labelled_dataset, pipeline=labelled_pipeline)
unlabelled_dataset = dict(_base_.unlabelled_dataset, pipeline=unlabelled_pipeline)
train_dataloader = dict(dataset=dict(datasets=[labelled_dataset, unlabelled_dataset]))
test_pipeline = [*_base_.load, *test_resize, *_base_.load_annotations, *_base_.test_pack]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
default_hooks = dict(checkpoint=dict(save_best='teacher/coco/segm_mAP'))

load_from = 'work_dirs/centermask-lite_v39_fpn_15k_semi-0.1-coco/iter_15000.pth'
