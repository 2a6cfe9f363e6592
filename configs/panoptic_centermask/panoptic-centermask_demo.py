# The model of the demo with a semantic branch, for the panoptic demo data set of
# tools/dataset_converters/make_demo_dataset.py --panoptic: it trains from random weights in minutes on two CPU cores.
_base_ = '../centermask_lite/centermask-lite_demo.py'

data_root = 'data/demo_panoptic/'
thing_classes = _base_.metainfo.classes
stuff_classes = ('water', 'grass', 'sand', 'brick', 'stone')
metainfo = dict(
    classes=thing_classes + stuff_classes,
    thing_classes=thing_classes,
    stuff_classes=stuff_classes,
    palette=_base_.metainfo.palette
    + [(126, 178, 209), (140, 170, 104), (222, 205, 155), (168, 113, 99), (176, 176, 184)],
)

counts = dict(num_things_classes=6, num_stuff_classes=5)
model = dict(
    type='PanopticCenterMask',
    data_preprocessor=dict(pad_seg=True, seg_pad_value=255),
    # The box head starts at stride 4 too: see the base.
    instance_start_level=0,
    semantic_head=dict(
        type='CenterMaskSemanticHead',
        in_channels=_base_.channels,
        inner_channels=_base_.channels,
        norm_cfg=dict(type='GN', num_groups=16),
        # Of so few classes, He's initial logits are large.
        logits_std=0.01,
        **counts,
    ),
    panoptic_fusion_head=dict(type='CenterMaskFusionHead', **counts),
    test_cfg=dict(
        # Merging computes with bitmaps.
        rcnn=dict(rle_masks=False),
        # A 40th of an image, as 4096 pixels are of a large image of COCO.
        panoptic=dict(score_thr=0.4, mask_overlap=0.5, stuff_area_limit=400),
    ),
)

load_annotations = [dict(type='LoadInstancesAndPanopticSeg', with_bbox=True, with_mask=True, poly2mask=False)]
train_pipeline = [*_base_.load, *load_annotations, *_base_.flip, *_base_.train_pack]
test_pipeline = [*_base_.load, *_base_.test_resize, *load_annotations, *_base_.test_pack]

dataset = dict(type='CocoInstancePanopticDataset', data_root=data_root, metainfo=metainfo)
train_dataloader = dict(
    dataset=dict(
        panoptic_ann_file='annotations/panoptic_train2017.json',
        data_prefix=dict(img='train2017/', seg='annotations/panoptic_train2017/'),
        pipeline=train_pipeline,
        **dataset,
    )
)
val_dataloader = dict(
    dataset=dict(
        panoptic_ann_file='annotations/panoptic_val2017.json',
        data_prefix=dict(img='val2017/', seg='annotations/panoptic_val2017/'),
        pipeline=test_pipeline,
        **dataset,
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

visualizer = dict(type='PanopticLocalVisualizer')
