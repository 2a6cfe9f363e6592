_base_ = './coco_instance_ms.py'

branch_field = ['sup_weak', 'sup_strong', 'unsup_teacher', 'unsup_student']
strong_steps = [
    dict(
        type='RandomApply',
        prob=0.8,
        transforms=[
            dict(type='TorchvisionColour', name='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
        ],
    ),
    dict(type='TorchvisionColour', name='RandomGrayscale', p=0.2),
    dict(
        type='RandomApply',
        prob=0.5,
        transforms=[dict(type='TorchvisionColour', name='GaussianBlur', kernel_size=13, sigma=(0.1, 2.0))],
    ),
    dict(type='RandomNoiseErasing', prob=0.7, area=(0.05, 0.2), aspect=(0.3, 3.3)),
    dict(type='RandomNoiseErasing', prob=0.5, area=(0.02, 0.2), aspect=(0.1, 6)),
    dict(type='RandomNoiseErasing', prob=0.3, area=(0.02, 0.2), aspect=(0.05, 8)),
]
pack = dict(
    type='PackDetInputs',
    meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction'),
)

load_no_annotations = [dict(type='LoadEmptyAnnotations')]
labelled_branches = [
    dict(type='MultiBranch', branch_field=branch_field, sup_weak=[pack], sup_strong=[*strong_steps, pack])
]
unlabelled_branches = [
    dict(type='MultiBranch', branch_field=branch_field, unsup_teacher=[pack], unsup_student=[*strong_steps, pack])
]

# Resize and flip come before the branches, which share them: pseudo-labels are used as they are.
geometry = [*_base_.train_resize, *_base_.flip]
labelled_pipeline = [*_base_.load, *_base_.load_annotations, *geometry, *labelled_branches]
unlabelled_pipeline = [*_base_.load, *load_no_annotations, *geometry, *unlabelled_branches]

labelled_dataset = dict(
    type='CocoDataset',
    data_root=_base_.data_root,
    # Written by tools/misc/split_coco.py.
    ann_file='semi_anns/instances_train2017.1@10.json',
    data_prefix=dict(img='train2017/'),
    filter_cfg=dict(filter_empty_gt=True, min_size=32),
    pipeline=labelled_pipeline,
    backend_args=_base_.backend_args,
)
unlabelled_dataset = dict(
    type='CocoDataset',
    data_root=_base_.data_root,
    ann_file='semi_anns/instances_train2017.1@10-unlabeled.json',
    data_prefix=dict(img='train2017/'),
    filter_cfg=dict(filter_empty_gt=False),
    pipeline=unlabelled_pipeline,
    backend_args=_base_.backend_args,
)

train_dataloader = dict(
    _delete_=True,
    batch_size=4,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='SeededGroupMultiSourceSampler', batch_size=4, source_ratio=[1, 1]),
    dataset=dict(type='ConcatDataset', datasets=[labelled_dataset, unlabelled_dataset]),
)
