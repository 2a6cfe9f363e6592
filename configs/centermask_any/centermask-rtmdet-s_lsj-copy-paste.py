# RTMDet-s with large-scale jitter and copy-paste (Ghiasi et al. 2021, https://arxiv.org/abs/2012.07177) in the place of
# mosaic and mixup: the transforms of RTMDet's last epochs, and objects of another image.
_base_ = './centermask-rtmdet-s_8xb32-300e_coco.py'

train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='MultiImageMixDataset',
        dataset=dict(_base_.train_dataloader.dataset, pipeline=_base_.train_pipeline_stage2[:-1]),
        pipeline=[dict(type='CopyPasteWithPolygons', max_num_pasted=100), _base_.train_pipeline_stage2[-1]],
    )
)
# Without the switch to the last epochs.
custom_hooks = _base_.custom_hooks[:1]
