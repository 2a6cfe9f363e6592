import torch
from torch import Tensor


def is_plain_cpu(x: Tensor) -> bool:
    """Whether features are float32 on a CPU, and neither mixed precision nor a compiler has a say.

    There, PyTorch's own operators are not the fastest way to compute some layers.
    """
    if x.device.type != 'cpu' or x.dtype != torch.float32:
        return False
    return not (torch.compiler.is_compiling() or _is_autocast_enabled())


def is_cpu_inference(x: Tensor) -> bool:
    """Whether :func:`is_plain_cpu` holds for features and no gradients are wanted."""
    return is_plain_cpu(x) and not torch.is_grad_enabled()


def _is_autocast_enabled() -> bool:
    try:
        return torch.is_autocast_enabled('cpu')
    except TypeError:  # PyTorch < 2.4
        return torch.is_autocast_cpu_enabled()
