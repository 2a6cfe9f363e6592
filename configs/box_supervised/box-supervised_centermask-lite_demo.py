# The demo data set without its masks.
_base_ = ['../centermask_lite/centermask-lite_demo.py', '../_base_/models/box_supervision.py']

model = _base_.box_supervision
# Small images with textures: neighbours in an object differ by more than those of photos, which cells average.
model['roi_head']['mask_head']['loss_boxes'].update(warmup_iters=400, pairwise_color_thresh=0.01)
model['roi_head']['mask_iou_head'] = None

load_annotations = [
    dict(type='LoadMaskOrBoxAnnotations', with_bbox=True, with_mask=True, poly2mask=False, boxes_only=True)
]
train_pipeline = [*_base_.load, *load_annotations, *_base_.flip, *_base_.train_pack]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
