from pathlib import Path

import numpy as np
import torch

# TorchScript models call torchvision's operators.
import torchvision  # noqa: F401

from .runtime import METADATA_KEY, OUTPUTS, RuntimeInputError, read_metadata


class TorchScriptModel:
    """A model.pt, with the interface of the runtime's models.

    Args:
        path: Path of the file.
        num_threads: Threads that PyTorch works with from now on; by default as it is set.
        device: ``CPU`` or ``GPU``.

    Raises:
        RuntimeInputError: The file cannot be used.
    """

    def __init__(self, path: Path, num_threads: int = 0, device: str = 'CPU') -> None:
        files = {f'{METADATA_KEY}.json': ''}
        self.device = torch.device('cuda' if device == 'GPU' else 'cpu')
        try:
            self.module = torch.jit.load(str(path), map_location=self.device, _extra_files=files).eval()
        except Exception as e:
            reason = ' '.join(str(e).split())[:200]
            raise RuntimeInputError(f'{path}: is damaged, or no TorchScript model; export it again ({reason})') from e
        self.metadata = read_metadata(path, files[f'{METADATA_KEY}.json'] or None, OUTPUTS)
        if num_threads:
            torch.set_num_threads(num_threads)

    @torch.inference_mode()
    def __call__(self, images: np.ndarray, image_sizes: np.ndarray) -> dict:
        """Detect objects; see :meth:`mmdet_sag.deployment.runtime.OnnxModel.__call__`."""
        outputs = self.module(*(torch.from_numpy(array).to(self.device) for array in (images, image_sizes)))
        return {name: output.cpu().numpy() for name, output in zip(OUTPUTS, outputs)}
