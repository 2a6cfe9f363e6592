_base_ = './coco_instance_ms.py'

# Instances come from COCO's instance annotations, where they overlap and are polygons, the semantic target from the
# panoptic PNG.
dataset_type = 'CocoInstancePanopticDataset'
data_root = _base_.data_root

load_annotations = [dict(type='LoadInstancesAndPanopticSeg', with_bbox=True, with_mask=True, poly2mask=False)]
train_pipeline = [*_base_.load, *load_annotations, *_base_.train_resize, *_base_.flip, *_base_.train_pack]
test_pipeline = [*_base_.load, *_base_.test_resize, *load_annotations, *_base_.test_pack]

train_dataloader = dict(
    dataset=dict(
        type=dataset_type,
        panoptic_ann_file='annotations/panoptic_train2017.json',
        data_prefix=dict(img='train2017/', seg='annotations/panoptic_train2017/'),
        filter_cfg=dict(filter_empty_gt=True, min_size=0),
        pipeline=train_pipeline,
    )
)
val_dataloader = dict(
    dataset=dict(
        type=dataset_type,
        panoptic_ann_file='annotations/panoptic_val2017.json',
        data_prefix=dict(img='val2017/', seg='annotations/panoptic_val2017/'),
        pipeline=test_pipeline,
    )
)
test_dataloader = val_dataloader

val_evaluator = [
    dict(
        type='UnroundedCocoMetric', ann_file=data_root + 'annotations/instances_val2017.json', metric=['bbox', 'segm']
    ),
    dict(
        type='StandaloneCocoPanopticMetric',
        ann_file=data_root + 'annotations/panoptic_val2017.json',
        seg_prefix=data_root + 'annotations/panoptic_val2017/',
    ),
]
test_evaluator = val_evaluator

tta_model = dict(type='PanopticCenterMaskTTAModel')
