"""Run by torchrun: one training step per case, and the gradients that it leaves, written by rank 0."""

import sys
from pathlib import Path

# Before mmdet: in a clone that is not installed, this finds the operators that mmdet wants.
import mmdet_sag  # noqa: F401

# isort: split
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.dist import get_rank, get_world_size
from mmengine.model import MMDistributedDataParallel
from mmengine.structures import InstanceData
from torch import distributed as torch_dist

from support.tiny import build_tiny

SIZE = 64
BOXES = (
    ((4, 6, 30, 40), (28, 20, 60, 58)),
    ((10, 2, 44, 30), (2, 30, 36, 62)),
)
# Two objects on each image: the mask losses are means over the RoIs of a process.
FULL = (BOXES[0], BOXES[1])
# The loss of an image without objects is that of its background; all RoIs are those of the other image.
EMPTY = (BOXES[0], ())


def sample(boxes: tuple) -> DetDataSample:
    masks = torch.zeros(len(boxes), SIZE, SIZE, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes):
        mask[y1:y2, x1:x2] = 1
    gt_instances = InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.arange(len(boxes)),
        masks=BitmapMasks(masks.numpy(), SIZE, SIZE),
    )
    data_sample = DetDataSample(gt_instances=gt_instances)
    data_sample.set_metainfo(dict(img_shape=(SIZE, SIZE), batch_input_shape=(SIZE, SIZE), ori_shape=(SIZE, SIZE)))
    return data_sample


def gradients(images: tuple, losses: str) -> dict:
    """Gradients of the losses whose name contains ``losses``, on this process's share of the images."""
    # A threshold that no detection reaches: the RoIs are the ground truth.
    model = build_tiny(**{'train_cfg.proposal.score_thr': 1.0})
    model.train()
    if get_world_size() > 1:
        model = MMDistributedDataParallel(model, find_unused_parameters=losses != 'loss')
    share = range(get_rank(), len(images), get_world_size())
    pixels = torch.rand(len(images), 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    outputs = model(pixels[list(share)], [sample(images[i]) for i in share], mode='loss')
    sum(sum(value) if isinstance(value, list) else value for key, value in outputs.items() if losses in key).backward()
    module = model.module if get_world_size() > 1 else model
    return {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}


def main() -> None:
    torch_dist.init_process_group('gloo')
    results = dict(
        all_losses=gradients(FULL, 'loss'),
        box_losses_with_an_empty_rank=gradients(EMPTY, 'loss_c'),
        all_losses_with_an_empty_rank=gradients(EMPTY, 'loss'),
    )
    if get_rank() == 0:
        torch.save(results, Path(sys.argv[1]))
    torch_dist.destroy_process_group()


if __name__ == '__main__':
    main()
