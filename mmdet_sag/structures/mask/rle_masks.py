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


def place_rle(bitmap: np.ndarray, x: int, y: int, height: int, width: int) -> dict:
    """Encode a mask at its place in a larger image, without a bitmap of that image.

    Args:
        bitmap: The mask, bool, shape (h, w).
        x: Column of its left edge in the image; the mask lies inside the image.
        y: Row of its upper edge.
        height: Height of the image.
        width: Width of the image.

    Returns:
        The mask in COCO's compressed run-length encoding.
    """
    # An empty row below, so that no run goes on from one column into the next.
    columns = np.pad(np.asarray(bitmap, dtype=np.int8), ((0, 1), (0, 0))).T
    column, row = np.divmod(np.flatnonzero(np.diff(columns.reshape(-1), prepend=0, append=0)), columns.shape[1])
    return encode_changes((x + column) * height + y + row, 1, height, width)[0]


def encode_changes(
    changes: np.ndarray, num_masks: int, height: int | np.ndarray, width: int | np.ndarray
) -> list[dict]:
    """Encode masks by the pixels at which they begin and end.

    Args:
        changes: Numbers of pixels in any order, int64: mask * (height * width + 1) + column * height + row, where the
            largest image counts in the first product. Numbers that occur an even number of times cancel. They are
            sorted in place.
        num_masks: Number of masks, 1 or more.
        height: Height of the image, or of the image of each mask, shape (num_masks, ).
        width: Width of the image, likewise.

    Returns:
        The masks in COCO's compressed run-length encoding: ``size`` and ``counts``, bytes.
    """
    changes.sort()
    new = np.ones(len(changes), bool)
    np.not_equal(changes[1:], changes[:-1], out=new[1:])
    firsts = np.flatnonzero(new)
    times = np.diff(firsts, append=len(changes))
    changes = changes[firsts[times & 1 == 1]]

    sizes = np.stack(np.broadcast_arrays(height, width, np.arange(num_masks))[:2], axis=1)
    pixels = sizes.prod(axis=1)
    mask, position = np.divmod(changes, pixels.max() + 1)
    inside = position < pixels[mask]
    mask, position = mask[inside], position[inside]
    ends = np.searchsorted(mask, np.arange(num_masks), side='right')
    # Each mask's changes between 0 and the number of pixels: their differences are its run lengths.
    bounds = np.insert(position, np.repeat(ends, 2), np.stack([pixels, 0 * pixels], axis=1).ravel())[:-1]
    counts = np.diff(bounds, prepend=0)
    counts = np.delete(counts, ends[:-1] + 2 * np.arange(num_masks - 1) + 1)
    ends = ends + np.arange(1, num_masks + 1)
    starts = np.concatenate([[0], ends[:-1]])

    # From the fourth on, the difference to the last but one is written, in digits of five bits.
    rank = np.arange(len(counts)) - np.repeat(starts, ends - starts)
    values = counts.copy()
    values[rank > 2] -= counts[np.flatnonzero(rank > 2) - 2]
    lengths = np.ones(len(values), np.int64)
    half = 16
    while (longer := (values >= half) | (values < -half)).any():
        lengths += longer
        half *= 32
    text_ends = lengths.cumsum()
    text = np.empty(text_ends[-1], np.uint8)
    for digit in range(lengths.max()):
        longer = lengths > digit
        more = (lengths[longer] > digit + 1) * 32
        text[(text_ends - lengths)[longer] + digit] = ((values[longer] >> 5 * digit) & 31) + more + 48
    encoded = text.tobytes()
    text_ends = text_ends[ends - 1]
    return [
        dict(size=size, counts=encoded[start:end])
        for size, start, end in zip(sizes.tolist(), np.concatenate([[0], text_ends[:-1]]), text_ends)
    ]
