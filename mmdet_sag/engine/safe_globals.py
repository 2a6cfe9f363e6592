import torch
from mmengine.utils import digit_version

from ..checkpoints.allowed_calls import ALLOWED_CALLS

# What torch.load does unless told otherwise.
LOADS_SAFELY = digit_version(torch.__version__) >= digit_version('2.6')


def allow_mmengine_checkpoints() -> None:
    """Let ``torch.load`` read MMEngine's checkpoints with its safe loading left on.

    Besides tensors, MMEngine writes a run's log (:class:`mmengine.logging.HistoryBuffer`) and NumPy numbers into a
    checkpoint. They are read by stand-ins that check what they are given, so nothing else becomes possible for any
    file that the process loads. Nothing is done before PyTorch 2.6, which does not load safely unless told to.
    """
    if LOADS_SAFELY:
        torch.serialization.add_safe_globals([(call, name) for name, call in ALLOWED_CALLS.items()])
