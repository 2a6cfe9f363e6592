_base_ = './iter_runtime.py'

default_hooks = dict(
    checkpoint=dict(save_best='coco_panoptic/PQ'),
    # The heads have as many classes as there are things, the data set those of stuff too.
    class_count=None,
)
visualizer = dict(type='PanopticLocalVisualizer')
