from collections.abc import Iterator, Sequence

import numpy as np
import pycocotools.mask as mask_utils
import torch
from torch import Tensor

Index = int | slice | list | np.ndarray | Tensor


class RLEMask(dict):
    """One mask in COCO's run-length encoding: ``size``, (height, width), and ``counts``, bytes.

    An index other than those two keys is one into the decoded mask (H, W), bool, so that code which takes rows and
    columns of a bitmap, as :func:`mmdet.structures.mask.encode_mask_results` does, may be given this.
    """

    def __getitem__(self, key):
        return super().__getitem__(key) if isinstance(key, str) else self.decode()[key]

    def decode(self) -> np.ndarray:
        """The mask as a bitmap (H, W), bool."""
        return mask_utils.decode(dict(self)).view(bool)


class RLEMasks:
    """Masks of one image in COCO's run-length encoding, decoded where bitmaps are asked for.

    They stand where MMDetection has a tensor of bitmaps: in :class:`mmengine.structures.InstanceData`, its metrics,
    visualizers and inferencer. Indexing as with a tensor selects masks; an integer gives an :class:`RLEMask`. They
    live on the host: what moves a tensor between devices leaves them as they are.

    Args:
        masks: Masks with ``size`` and ``counts``, as pycocotools has them.
        height: Height of the image in pixels.
        width: Width of the image in pixels.
    """

    dtype = torch.bool
    device = torch.device('cpu')

    def __init__(self, masks: Sequence[dict], height: int, width: int) -> None:
        self.masks = [mask if isinstance(mask, RLEMask) else RLEMask(mask) for mask in masks]
        self.height = int(height)
        self.width = int(width)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(number of masks, height, width)."""
        return len(self), self.height, self.width

    def __len__(self) -> int:
        return len(self.masks)

    def __iter__(self) -> Iterator[RLEMask]:
        return iter(self.masks)

    def __getitem__(self, index: Index) -> 'RLEMask | RLEMasks':
        if isinstance(index, (int, np.integer)):
            return self.masks[index]
        if isinstance(index, slice):
            return RLEMasks(self.masks[index], self.height, self.width)
        if isinstance(index, Tensor):
            index = index.cpu().numpy()
        chosen = np.arange(len(self))[np.asarray(index, dtype=None if len(index) else np.int64)]
        return RLEMasks([self.masks[i] for i in chosen], self.height, self.width)

    def __repr__(self) -> str:
        return f'{type(self).__name__}(num_masks={len(self)}, height={self.height}, width={self.width})'

    @staticmethod
    def cat(masks: Sequence['RLEMasks']) -> 'RLEMasks':
        """Join the masks of one image.

        Raises:
            ValueError: If they are of images of different sizes.
        """
        sizes = {part.shape[1:] for part in masks}
        if len(sizes) != 1:
            raise ValueError(f'masks of images of different sizes {sorted(sizes)} cannot be joined')
        return RLEMasks([mask for part in masks for mask in part], *masks[0].shape[1:])

    def to_ndarray(self) -> np.ndarray:
        """The masks as bitmaps (n, H, W), bool."""
        bitmaps = np.zeros(self.shape, bool)
        for bitmap, mask in zip(bitmaps, self.masks):
            bitmap[:] = mask.decode()
        return bitmaps

    def to_tensor(self, dtype: torch.dtype = torch.bool, device: torch.device | None = None) -> Tensor:
        """The masks as a tensor of bitmaps (n, H, W)."""
        return torch.from_numpy(self.to_ndarray()).to(device=device, dtype=dtype)

    def numpy(self) -> np.ndarray:
        """As :meth:`to_ndarray`: the name that tensors have."""
        return self.to_ndarray()

    def astype(self, dtype: type) -> np.ndarray:
        """As :meth:`to_ndarray`, in the type ``dtype``: the name that arrays have."""
        return self.to_ndarray().astype(dtype, copy=False)

    def to(self, *args, **kwargs) -> 'RLEMasks':
        """The masks as they are."""
        return self

    cpu = detach = to
