"""What this package relies on in MMEngine and MMDetection although its name begins with an underscore.

Such parts may change with any release. They are used where there is no public way, and named here alone, so that a test
tells at once which of them an update has moved.
"""

# By class or module, the methods and functions that are overridden or called, with their parameters.
PRIVATE_FUNCTIONS = {
    'mmengine.config.DictAction': {'_parse_int_float_bool': ('val',), '_parse_iterable': ('val',)},
    'mmengine.hooks.CheckpointHook': {
        '_save_checkpoint_with_step': ('self', 'runner', 'step', 'meta'),
        '_save_best_checkpoint': ('self', 'runner', 'metrics'),
    },
    'mmengine.hooks.IterTimerHook': {
        '_after_iter': ('self', 'runner', 'batch_idx', 'data_batch', 'outputs', 'mode'),
    },
    'mmengine.logging.HistoryBuffer': {'_set_default_statistics': ('self',)},
    'mmengine.runner.IterBasedTrainLoop': {'_decide_current_val_interval': ('self',)},
    'mmengine.runner.EpochBasedTrainLoop': {'_decide_current_val_interval': ('self',)},
    'mmengine.runner.loops': {'_InfiniteDataloaderIterator': ('dataloader',)},
    'mmdet.models.roi_heads.mask_heads.fcn_mask_head': {
        '_do_paste_mask': ('masks', 'boxes', 'img_h', 'img_w', 'skip_empty'),
    },
}

# By class, the attributes of its objects that are read or set.
PRIVATE_ATTRIBUTES = {
    'mmengine.logging.HistoryBuffer': ('_log_history', '_count_history'),
    'mmengine.runner.EpochBasedTrainLoop': ('_epoch', '_iter', '_max_epochs', '_max_iters'),
    'mmengine.runner.IterBasedTrainLoop': ('_epoch', '_iter', '_max_iters'),
    'mmengine.runner.Runner': ('_randomness_cfg', '_train_loop'),
    'mmengine.runner.loops._InfiniteDataloaderIterator': ('_dataloader', '_iterator', '_epoch'),
}
