# The backbone of the MobileNetV2 models, in place of any other.
mobilenet_v2 = dict(
    _delete_=True,
    type='HeadlessMobileNetV2',
    norm_cfg=dict(type='BN', requires_grad=False),
    norm_eval=True,
    init_cfg=dict(type='Pretrained', checkpoint='checkpoints/mobilenet-v2_imagenet.pth'),
)
