import sys
from typing import Any

from mmdet.registry import HOOKS
from mmengine.device import get_device
from mmengine.dist import get_world_size
from mmengine.hooks import IterTimerHook
from mmengine.runner import Runner

try:
    import resource
except ImportError:  # Windows
    resource = None


@HOOKS.register_module()
class ThroughputTimerHook(IterTimerHook):
    """Logs the training throughput, and on the CPU the memory, which MMEngine logs for accelerators only.

    ``images_per_s`` counts the images of all processes per second of a step, loading included. ``ram_mb`` is the peak
    resident memory of the process in MB, without the workers of its data loader.
    """

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Log the figures of an iteration."""
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        if not isinstance(data_batch, dict) or 'data_samples' not in data_batch:
            return
        hub = runner.message_hub
        data_samples = data_batch['data_samples']
        if isinstance(data_samples, dict):
            # In semi-supervised training, each branch has an entry for every image of the batch.
            data_samples = next(iter(data_samples.values()))
        num_images = len(data_samples) * get_world_size()
        hub.update_scalar('train/images_per_s', num_images / hub.get_scalar('train/time').current())
        if resource is not None and get_device() == 'cpu':
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            hub.update_scalar('train/ram_mb', peak / (2**20 if sys.platform == 'darwin' else 2**10))
