_base_ = './iter_runtime.py'

default_hooks = _base_.default_hooks
# The box and mask heads have as many classes as there are things, the data set those of stuff too.
default_hooks.pop('class_count')
default_hooks['checkpoint'].update(save_best='coco_panoptic/PQ')
default_hooks['_delete_'] = True

visualizer = dict(type='PanopticLocalVisualizer')
