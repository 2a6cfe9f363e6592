# The backbone of the X-101 models, in place of ResNet-50.
resnext101_32x8d = dict(
    type='ResNeXt',
    depth=101,
    groups=32,
    base_width=8,
    style='pytorch',
    init_cfg=dict(checkpoint='open-mmlab://detectron2/resnext101_32x8d'),
)
