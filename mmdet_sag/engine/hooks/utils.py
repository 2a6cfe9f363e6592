from mmengine.runner import Runner

from ...errors import InputError
from .whole_checkpoint_hook import WholeCheckpointHook


def find_checkpoint_hook(runner: Runner) -> WholeCheckpointHook:
    """Find the hook that saves checkpoints.

    Raises:
        InputError: There is none.
    """
    for hook in runner.hooks:
        if isinstance(hook, WholeCheckpointHook):
            return hook
    raise InputError("set default_hooks.checkpoint.type='WholeCheckpointHook': other hooks save checkpoints through it")
