_base_ = 'mmdet::_base_/default_runtime.py'

default_hooks = dict(
    timer=dict(type='ThroughputTimerHook'),
    checkpoint=dict(
        type='AtomicCheckpointHook',
        interval=10000,
        by_epoch=False,
        max_keep_ckpts=3,
        save_best='coco/segm_mAP',
        rule='greater',
    ),
    loss_guard=dict(type='LossGuardHook'),
    preemption=dict(type='PreemptionHook'),
    # On a CPU; elsewhere it does nothing.
    fast_training=dict(type='FastTrainingHook'),
    # tools/train.py of this package checks before it starts; this one serves MMDetection's.
    class_count=dict(type='NumClassCheckHook'),
)
log_processor = dict(by_epoch=False)
visualizer = dict(type='InstanceLocalVisualizer')
