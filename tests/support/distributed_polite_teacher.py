"""Run by torchrun: a step of a Polite Teacher of which only rank 0 has a pseudo-label."""

import sys
from pathlib import Path

# Before mmdet: in a clone that is not installed, this finds the operators that mmdet wants.
import mmdet_sag  # noqa: F401

# isort: split
import torch
from mmengine.dist import all_reduce, get_rank
from mmengine.model import MMDistributedDataParallel
from torch import distributed as torch_dist

from support.tiny_semi import SIZE, build_teacher, detections, samples, set_detections

# Large enough for more than two positive locations, below which the normaliser is 1.
BOX = [8, 8, 50, 50]
FOUND = [detections([BOX], [0.9]), detections([], [])]


def batch(share: list) -> tuple:
    views = torch.rand(4, 2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    names = ('sup_weak', 'sup_strong', 'unsup_teacher', 'unsup_student')
    inputs = {name: view[share] for name, view in zip(names, views)}
    data = {name: samples([[BOX] if 'unsup' not in name else []] * len(share)) for name in names}
    return inputs, data


def step(share: list, distributed: bool) -> tuple:
    """The gradients of a step, in one tensor, and the class loss of the unlabelled images."""
    model = build_teacher(detector={'train_cfg.proposal.score_thr': 1.0})
    found = [FOUND[i] for i in share]
    set_detections(model, found, ious=[0.95] * sum(len(part) for part in found))
    if distributed:
        model = MMDistributedDataParallel(model)
    losses = model(*batch(share), mode='loss')
    sum(sum(v) if isinstance(v, list) else v.sum() for k, v in losses.items() if 'loss' in k).backward()
    gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    # Not the model: what is left of DDP would end the process group while it holds Python's lock, for which gloo's
    # threads may wait.
    return gradients, losses['unsup_loss_cls'].detach()


def main() -> None:
    path = Path(sys.argv[1])
    # Before there are processes: the losses average their normalisers over them.
    joined = step([0, 1], distributed=False)[1]
    torch_dist.init_process_group('gloo')
    gradients, loss_cls = step([get_rank()], distributed=True)
    all_reduce(loss_cls, 'mean')
    mean = gradients.clone()
    all_reduce(mean, 'mean')
    same = torch.tensor(float(torch.allclose(gradients, mean) and bool(gradients.isfinite().all())))
    all_reduce(same, 'min')
    if get_rank() == 0:
        torch.save(dict(same_gradients=bool(same), mean_loss_cls=loss_cls, joined_loss_cls=joined), path)
    torch_dist.destroy_process_group()


if __name__ == '__main__':
    main()
