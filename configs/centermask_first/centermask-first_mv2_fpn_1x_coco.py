_base_ = './centermask-first_mv2_fpn_ms-3x_coco.py'

model = dict(
    roi_head=dict(
        mask_iou_head=dict(
            _delete_=True,
            type='CenterMaskIoUHead',
            num_convs=4,
            in_channels=256,
            conv_out_channels=256,
            num_classes=80,
        )
    )
)

train_pipeline = _base_.train_pipeline
train_pipeline[2] = dict(type='ShortSideResize', scale=(1333, 800), backend='pillow')
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

train_cfg = dict(max_iters=90000)
param_scheduler = _base_.param_scheduler
param_scheduler[1].update(end=90000, milestones=[60000, 80000])
