# Large-scale jitter and copy-paste (Ghiasi et al. 2021, https://arxiv.org/abs/2012.07177), with a shorter schedule.
_base_ = './centermask_r50-caffe_fpn_ms-3x_coco.py'

image_size = (1024, 1024)
jitter = [
    dict(type='RandomResize', scale=image_size, ratio_range=(0.1, 2.0), keep_ratio=True, backend='pillow'),
    dict(type='RandomCrop', crop_size=image_size, recompute_bbox=True, allow_negative_crop=True),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1e-2, 1e-2)),
]
# Images of one size, so that objects of one can be pasted into another.
pad = [dict(type='Pad', size=image_size)]
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='MultiImageMixDataset',
        dataset=dict(
            _base_.train_dataloader.dataset,
            pipeline=[*_base_.load, *_base_.load_annotations, *jitter, *_base_.flip, *pad],
        ),
        pipeline=[dict(type='CopyPasteWithPolygons', max_num_pasted=100), *_base_.train_pack],
    )
)
