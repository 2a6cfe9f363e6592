_base_ = ['mmdet::gfl/gfl_r50_fpn_ms-2x_coco.py', '../_base_/models/sag_branch.py']

model = _base_.sag_branch
model.train_cfg.bbox_head = _base_.model.train_cfg
model.test_cfg.bbox_head = _base_.model.test_cfg

load_masks = dict(type='LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=False)
train_pipeline = [load_masks if step.type == 'LoadAnnotations' else step for step in _base_.train_pipeline]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_evaluator = dict(metric=['bbox', 'segm'])
test_evaluator = val_evaluator
