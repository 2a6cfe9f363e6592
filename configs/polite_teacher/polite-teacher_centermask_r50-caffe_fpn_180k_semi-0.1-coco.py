_base_ = [
    '../_base_/models/centermask_r50-caffe_fpn.py',
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
default_hooks = dict(checkpoint=dict(save_best='teacher/coco/segm_mAP'))

load_from = 'work_dirs/centermask_r50-caffe_fpn_15k_semi-0.1-coco/iter_15000.pth'
