"""Copies between host and accelerator that do not wait for more than they must."""

from collections.abc import Sequence

import torch
from torch import Tensor


def to_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copy tensors of numbers that float64 holds exactly to the host, in one transfer; one wait for the accelerator."""
    if all(tensor.device.type == 'cpu' for tensor in tensors):
        return list(tensors)
    together = torch.cat([tensor.detach().flatten().double() for tensor in tensors]).cpu()
    parts = together.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape).to(tensor.dtype) for part, tensor in zip(parts, tensors)]


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the host to a device. CUDA copies it behind the work that it has, and is not waited for."""
    if tensor.device.type != 'cpu':
        return tensor
    return (tensor.pin_memory() if device.type == 'cuda' else tensor).to(device, non_blocking=True)
