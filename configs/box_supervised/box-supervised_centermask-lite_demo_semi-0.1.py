# The demo data set with the masks of a tenth of its images, and the boxes of all.
_base_ = './box-supervised_centermask-lite_demo.py'

boxes = _base_.train_dataloader.dataset
with_masks = dict(
    boxes,
    ann_file='semi_anns/instances_train2017.1@10.json',
    pipeline=[*_base_.load, {**_base_.load_annotations[0], 'boxes_only': False}, *_base_.flip, *_base_.train_pack],
)
without_masks = dict(boxes, ann_file='semi_anns/instances_train2017.1@10-unlabeled.json')
# Half of the images of a step have masks: a tenth of them would change little of what the boxes teach.
with_masks = dict(type='RepeatDataset', times=9, dataset=with_masks)
train_dataloader = dict(
    dataset=dict(_delete_=True, type='ConcatDataset', datasets=[with_masks, without_masks]),
)
