import logging
from collections.abc import Iterable

import torch
from mmengine.logging import print_log
from mmengine.registry import OPTIMIZERS
from mmengine.utils import digit_version
from torch import Tensor
from torch.optim import AdamW

# PyTorch has the fused step on a CPU since 2.4.
FUSED = digit_version(torch.__version__) >= digit_version('2.4')


@OPTIMIZERS.register_module()
def FusedAdamW(params: Iterable[Tensor | dict], **kwargs) -> AdamW:
    """Deprecated name of ``AdamW`` with ``fused=True``, kept for one release; checkpoints of both fit either."""
    message = "The optimizer 'FusedAdamW' is deprecated: use type='AdamW' with fused=True (PyTorch 2.4 or newer)"
    print_log(message, logger='current', level=logging.WARNING)
    return AdamW(params, fused=FUSED, **kwargs)
