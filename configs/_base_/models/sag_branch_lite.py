_base_ = './sag_branch.py'

# As in CenterMask-Lite: half the channels and half the convolutions.
sag_branch = dict(
    roi_head=dict(
        mask_roi_extractor=dict(out_channels=128),
        mask_head=dict(num_convs=2, in_channels=128, conv_out_channels=128),
        mask_iou_head=dict(num_convs=2, in_channels=128, conv_out_channels=128),
    ),
)
