_base_ = './centermask-first_v39_fpn_ms-3x_coco.py'

model = dict(backbone=dict(dcn=dict(type='DCNv2', deform_groups=1)))

train_pipeline = _base_.train_pipeline
train_pipeline[2] = dict(type='ShortSideResize', scale=(1333, 800), backend='pillow')
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

train_cfg = dict(max_iters=90000)
param_scheduler = _base_.param_scheduler
param_scheduler[1].update(end=90000, milestones=[60000, 80000])
