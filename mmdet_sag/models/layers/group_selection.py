"""Choosing among several images, classes or levels at once: an accelerator is waited for once for all."""

from collections.abc import Sequence

import torch
from mmdet.utils import InstanceList
from mmengine.structures import InstanceData
from torch import Tensor


def chosen_of_groups(chosen: Tensor, groups: Tensor, num_groups: int) -> tuple[Tensor, list[int]]:
    """Return the indices of the chosen ones of n items, and their number in each group.

    ``chosen`` and ``groups``, the number of the group of each item, ascending, have the shape (n, ).
    """
    numbers = torch.zeros(num_groups, dtype=torch.long, device=groups.device).index_add_(0, groups, chosen.long())
    counts = numbers.tolist()
    return (~chosen).long().argsort(stable=True)[: sum(counts)], counts


def best_of_groups(
    values: Tensor, groups: Tensor, num_groups: int, count: int | None, ties: bool = False
) -> tuple[Tensor, list[int]]:
    """Choose the ``count`` highest values of each group, 1 or more; None: all.

    ``values`` and ``groups``, the number of the group of each, have the shape (n, ). With ``ties``, those that tie with
    the last one are chosen too.

    Returns:
        Indices of the chosen values, group by group, the highest first, and their number in each group.
    """
    order = values.argsort(descending=True, stable=True)
    order = order[groups[order].argsort(stable=True)]
    values, groups = values[order], groups[order]
    count = len(values) if count is None else count
    first = torch.searchsorted(groups, groups)
    chosen = torch.arange(len(order), device=order.device) < first + count
    if ties and len(order):
        chosen |= values >= values[(first + count - 1).clamp(max=len(order) - 1)]
    index, counts = chosen_of_groups(chosen, groups, num_groups)
    return order[index], counts


def join(instances_list: InstanceList) -> tuple[InstanceData, Tensor]:
    """Join the instances of all images, and return the number of the image of each, shape (n, )."""
    instances = InstanceData.cat(instances_list)
    labels = instances.labels
    return instances, torch.cat([labels.new_full((len(part),), i) for i, part in enumerate(instances_list)])


def split(instances: InstanceData, counts: list[int]) -> InstanceList:
    """Undo :func:`join`: split instances into as many of each image as ``counts`` says."""
    ends = torch.tensor(counts).cumsum(0).tolist()
    return [instances[end - count : end] for end, count in zip(ends, counts)]


def filled(like: Tensor, rows: Sequence[Sequence[float]]) -> Tensor:
    """A tensor (n, m) of numbers, made where ``like`` lies: ``new_tensor`` would copy them to an accelerator."""
    return torch.cat([torch.cat([like.new_full((1, 1), number) for number in row], dim=1) for row in rows])


def of_class(preds: Tensor, labels: Tensor) -> Tensor:
    """Select each row's entry of its class from predictions (n, num_classes, ...), or the only one of (n, 1, ...)."""
    index = torch.arange(labels.shape[0], device=labels.device)
    return preds[index, labels if preds.shape[1] > 1 else torch.zeros_like(labels)]
