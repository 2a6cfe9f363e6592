# Polite Teacher on the demo data set with a tenth of its labels, from a baseline trained on these labels alone.
_base_ = './centermask-lite_demo_semi-0.1.py'

max_iters = 1000
detector = _base_.model
model = dict(
    _delete_=True,
    type='PoliteTeacher',
    detector=detector,
    data_preprocessor=dict(type='MultiBranchDataPreprocessor', data_preprocessor=detector.data_preprocessor),
    semi_train_cfg=dict(
        # The baseline has learnt the weak views; a step without them takes four fifths of the time.
        sup_branches=('sup_strong',),
        # This teacher is less sure than one of COCO: with 0.6 and 0.9, half of the objects and most masks are rejected.
        cls_pseudo_thr=0.5,
        mask_pseudo_thr=0.75,
        # The detector has batch norms, which those of COCO do not train.
        norm_eval=True,
    ),
)

branch_field = ['sup_weak', 'sup_strong', 'unsup_teacher', 'unsup_student']
# Hue 0.1 would turn the colours of a class into those of others.
strong_steps = [
    dict(
        type='RandomApply',
        prob=0.8,
        transforms=[
            dict(type='TorchvisionColour', name='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.02)
        ],
    ),
    dict(type='RandomNoiseErasing', prob=0.7, area=(0.02, 0.1), aspect=(0.3, 3.3)),
]
pack = dict(
    type='PackDetInputs',
    meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction'),
)
labelled_branches = dict(
    type='MultiBranch', branch_field=branch_field, sup_weak=[pack], sup_strong=[*strong_steps, pack]
)
unlabelled_branches = dict(
    type='MultiBranch', branch_field=branch_field, unsup_teacher=[pack], unsup_student=[*strong_steps, pack]
)

geometry = [*_base_.test_resize, *_base_.flip]
labelled_dataset = dict(
    _base_.train_dataloader.dataset,
    ann_file='semi_anns/instances_train2017.1@10.json',
    pipeline=[*_base_.load, *_base_.load_annotations, *geometry, labelled_branches],
)
unlabelled_dataset = dict(
    _base_.train_dataloader.dataset,
    ann_file='semi_anns/instances_train2017.1@10-unlabeled.json',
    filter_cfg=dict(filter_empty_gt=False),
    pipeline=[*_base_.load, dict(type='LoadEmptyAnnotations'), *geometry, unlabelled_branches],
)
train_dataloader = dict(
    _delete_=True,
    batch_size=2,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='SeededGroupMultiSourceSampler', batch_size=2, source_ratio=[1, 1]),
    dataset=dict(type='ConcatDataset', datasets=[labelled_dataset, unlabelled_dataset]),
)

train_cfg = dict(max_iters=max_iters, val_interval=500)
val_cfg = dict(type='TeacherStudentValLoop')
optim_wrapper = dict(optimizer=dict(lr=0.0007))
default_hooks = dict(checkpoint=dict(interval=400, max_keep_ckpts=1))
param_scheduler = [_base_.warmup, dict(_base_.cosine, end=max_iters, T_max=max_iters - 50)]
# 0.9996 averages thousands of steps; this training has hundreds.
custom_hooks = [dict(type='MeanTeacherHook', momentum=0.005, skip_buffer=False)]

load_from = 'work_dirs/centermask-lite_demo_semi-0.1/iter_3200.pth'
