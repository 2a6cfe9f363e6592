_base_ = 'mmdet::_base_/default_runtime.py'

default_hooks = dict(
    checkpoint=dict(interval=10000, by_epoch=False, max_keep_ckpts=3, save_best='coco/segm_mAP', rule='greater')
)
log_processor = dict(by_epoch=False)
