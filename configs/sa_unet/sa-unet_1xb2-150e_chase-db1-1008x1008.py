_base_ = [
    '../_base_/models/sa_unet.py',
    'mmseg::_base_/datasets/chase_db1.py',
    '../_base_/schedules/sa-unet_150e.py',
]

model = dict(backbone=dict(drop_prob=0.13))
train_dataloader = dict(
    batch_size=2,
    sampler=_base_.sampler,
    dataset=dict(times=_base_.times, dataset=dict(pipeline=_base_.augmented_pipeline)),
)
val_evaluator = dict(_delete_=True, type='mmdet.VesselMetric', field_of_view=20)
test_evaluator = val_evaluator
