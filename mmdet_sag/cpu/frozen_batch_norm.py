import torch
from torch import Tensor, nn

from .plain_cpu import is_plain_cpu


class FrozenBatchNorm:
    """A batch norm that neither gathers statistics nor learns, as one multiplication and addition, on a CPU.

    It stands in for the ``forward`` of an ``nn.BatchNorm2d``, which stays as it is, and takes less than half of its
    time forwards and backwards. While the batch norm is in training mode or its parameters want gradients, on other
    devices, in other types than float32 and in mixed precision it is the batch norm's own forward.

    Args:
        norm: The batch norm, see :meth:`suits`.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        self.norm = norm

    @staticmethod
    def suits(module: nn.Module) -> bool:
        """Whether a module is a batch norm of images with statistics and parameters."""
        return type(module) is nn.BatchNorm2d and module.affine and module.track_running_stats

    def __call__(self, x: Tensor) -> Tensor:
        """Normalize features (N, C, H, W)."""
        norm = self.norm
        if norm.training or norm.weight.requires_grad or norm.bias.requires_grad or not is_plain_cpu(x):
            return type(norm).forward(norm, x)
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        shift = norm.bias - norm.running_mean * scale
        return torch.addcmul(shift[:, None, None], x, scale[:, None, None])
