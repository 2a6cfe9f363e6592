# What CenterMask needs to learn the masks of objects that have a box alone: see docs/semi_supervised.md.
# A config inherits this and a model, and sets model = _base_.box_supervision. Where no object has a mask, it also sets
# roi_head.mask_iou_head=None, since a MaskIoU head learns from masks.
box_supervision = dict(
    data_preprocessor=dict(type='BoxSupervisedDataPreprocessor'),
    # With equal weights, masks end before the borders of their objects.
    roi_head=dict(
        mask_head=dict(
            loss_boxes=dict(type='BoxInstLoss', warmup_iters=10000, project_weight=2.0, box_weight=0.5),
        )
    ),
    # Without it, RoIs are as tight as the boxes, and a mask that fills its box has no loss.
    train_cfg=dict(rcnn=dict(roi_margin=(-0.1, 0.15))),
)
