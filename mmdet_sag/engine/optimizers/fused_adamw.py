from collections.abc import Iterable

from mmengine.registry import OPTIMIZERS
from torch import Tensor
from torch.optim import AdamW


@OPTIMIZERS.register_module()
class FusedAdamW(AdamW):
    """AdamW whose step is one kernel where PyTorch has it for the parameters' device, and that of ``AdamW`` elsewhere.

    On a CPU, where PyTorch has it from 2.4 on, ``AdamW`` otherwise goes through the parameters one by one and writes
    every intermediate result to memory. Checkpoints of both go on with either.

    Args:
        params: Parameters, or parameter groups.
        **kwargs: As in ``AdamW``, but for ``fused``.
    """

    def __init__(self, params: Iterable[Tensor | dict], **kwargs) -> None:
        params = list(params)
        try:
            # In copies: groups keep the options of an attempt that failed.
            super().__init__(_copied(params), fused=True, **kwargs)
        except RuntimeError as error:
            if 'fused' not in str(error):
                raise
            super().__init__(params, fused=False, **kwargs)

    def load_state_dict(self, state_dict: dict) -> None:
        """Load a state, also one of another machine or of ``AdamW``; whether the step is one kernel stays as it is."""
        groups = [dict(group, fused=self.defaults['fused']) for group in state_dict['param_groups']]
        super().load_state_dict(dict(state_dict, param_groups=groups))


def _copied(params: list[Tensor | dict]) -> list[Tensor | dict]:
    return [dict(group) if isinstance(group, dict) else group for group in params]
