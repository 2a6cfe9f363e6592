# SA-UNet as a model of MMSegmentation. Sides are filled up with black to multiples of the network's stride.
custom_imports = dict(imports=['mmdet_sag'])

model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[0.0, 0.0, 0.0],
        std=[255.0, 255.0, 255.0],
        bgr_to_rgb=True,
        seg_pad_val=0,
        size_divisor=8,
        test_cfg=dict(size_divisor=8),
    ),
    backbone=dict(type='mmdet.SAUNet', base_channels=16, drop_prob=0.18, block_size=7),
    # The last layer of the network, a 1x1 convolution, and the sigmoid.
    decode_head=dict(
        type='FCNHead',
        in_channels=16,
        channels=16,
        in_index=0,
        num_convs=0,
        concat_input=False,
        dropout_ratio=0,
        num_classes=2,
        out_channels=1,
        threshold=0.5,
        # MMSegmentation's start near 0 lets all weights become negative together, so that no probability reaches 0.5.
        init_cfg=dict(type='Xavier', layer='Conv2d', distribution='uniform'),
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
