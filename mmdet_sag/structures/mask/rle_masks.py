import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Union

import numpy as np
import pycocotools.mask as mask_utils
import torch
from torch import Tensor

Index = int | slice | list | np.ndarray | Tensor
_OPERATORS: tuple[str, ...] = ('and', 'or', 'xor', 'add', 'sub', 'mul', 'truediv', 'floordiv', 'mod', 'pow', 'matmul')
_OPERATORS += ('eq', 'ne', 'lt', 'le', 'gt', 'ge', 'invert', *(f'r{name}' for name in _OPERATORS))


class _Bitmaps:
    """Does what a tensor of bitmaps does, by decoding the masks at that moment: for PyTorch, NumPy and ``x.method()``.

    The results are tensors. What works in place, such as ``masks.zero_()``, would change a copy, and is refused.
    """

    dtype = torch.bool
    device = torch.device('cpu')

    def to_ndarray(self) -> np.ndarray:
        """The masks as bitmaps, bool."""
        raise NotImplementedError

    def to_tensor(self, dtype: torch.dtype = torch.bool, device: torch.device | str | None = None) -> Tensor:
        """The masks as a tensor of bitmaps; ``device`` is by default that of the masks."""
        return torch.from_numpy(self.to_ndarray()).to(device=device or self.device, dtype=dtype)

    def numpy(self) -> np.ndarray:
        """As :meth:`to_ndarray`: the name that tensors have."""
        return self.to_ndarray()

    def astype(self, dtype: type) -> np.ndarray:
        """As :meth:`to_ndarray`, in the type ``dtype``: the name that arrays have."""
        return self.to_ndarray().astype(dtype, copy=False)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.astype(dtype or bool)

    # How torch.as_tensor and torch.tensor read what is not theirs, since PyTorch 2.6.
    def __dlpack__(self, **kwargs) -> Any:
        return self.to_tensor().__dlpack__(**kwargs)

    def __dlpack_device__(self) -> tuple:
        return self.to_tensor().__dlpack_device__()

    @classmethod
    def __torch_function__(cls, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return function(*_decoded(args), **{key: _decoded(value) for key, value in (kwargs or {}).items()})

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__') or not hasattr(Tensor, name):
            raise AttributeError(f'{type(self).__name__!r} object has no attribute {name!r}')
        if name.endswith('_'):
            raise AttributeError(f'{name} would change a decoded copy of the masks: call it on masks.to_tensor()')
        return getattr(self.to_tensor(), name)


def _decoded(value: Any) -> Any:
    if isinstance(value, _Bitmaps):
        return value.to_tensor()
    return type(value)(map(_decoded, value)) if type(value) in (list, tuple) else value


def _operate(name: str) -> Callable:
    return lambda self, *others: getattr(self.to_tensor(), name)(*_decoded(others))


# Python looks operators up in the class.
for _name in _OPERATORS:
    setattr(_Bitmaps, f'__{_name}__', _operate(f'__{_name}__'))


def _encode(bitmaps: Tensor) -> list[dict]:
    return mask_utils.encode(np.asfortranarray(bitmaps.byte().cpu().numpy().transpose(1, 2, 0)))


class RLEMask(_Bitmaps, dict):
    """One mask in COCO's run-length encoding: ``size``, (height, width), and ``counts``, bytes.

    It is a dict with those two keys, as pycocotools has them, and in all else the tensor of its bitmap (H, W), bool.
    """

    def __init__(self, mask: dict, device: torch.device | str = 'cpu') -> None:
        super().__init__(mask)
        self.device = torch.device(device)

    @property
    def shape(self) -> torch.Size:
        """(height, width)."""
        return torch.Size(self['size'])

    def __len__(self) -> int:
        return self['size'][0]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.to_tensor())

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else self.to_tensor()[_decoded(key)]

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(key, str):
            super().__setitem__(key, value)
            return
        bitmap = self.to_tensor()
        bitmap[key] = value
        self.update(_encode(bitmap[None])[0])

    # Two encoded masks are compared as wholes.
    def __eq__(self, other: object) -> Any:
        return super(_Bitmaps, self).__eq__(other) if isinstance(other, dict) else self.to_tensor() == other

    def __ne__(self, other: object) -> Any:
        return super(_Bitmaps, self).__ne__(other) if isinstance(other, dict) else self.to_tensor() != other

    def decode(self) -> np.ndarray:
        """The mask as a bitmap (H, W), bool."""
        return mask_utils.decode(dict(self)).view(bool)

    to_ndarray = decode


class RLEMasks(_Bitmaps):
    """Masks of one image in COCO's run-length encoding, decoded where bitmaps are asked for.

    They stand where MMDetection has a tensor of bitmaps (n, H, W), bool: in
    :class:`mmengine.structures.InstanceData`, its metrics, visualizers and inferencer, and in the code of users.
    Selecting masks, moving and pickling them decodes nothing; an integer as index gives an :class:`RLEMask`.

    Args:
        masks: Masks with ``size`` and ``counts``, as pycocotools has them.
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        device: Where decoded masks are put; the runs themselves are in the host's memory.
    """

    def __init__(self, masks: Sequence[dict], height: int, width: int, device: torch.device | str = 'cpu') -> None:
        self.device = torch.device(device)
        self.masks = [
            mask if isinstance(mask, RLEMask) and mask.device == self.device else RLEMask(mask, self.device)
            for mask in masks
        ]
        self.height = int(height)
        self.width = int(width)

    @property
    def shape(self) -> torch.Size:
        """(number of masks, height, width)."""
        return torch.Size([len(self), self.height, self.width])

    def __len__(self) -> int:
        return len(self.masks)

    def __iter__(self) -> Iterator[RLEMask]:
        return iter(self.masks)

    def __getitem__(self, index: Index | tuple | None) -> Union[RLEMask, 'RLEMasks', Tensor]:
        if isinstance(index, slice):
            return self._of(self.masks[index])
        try:
            return self.masks[operator.index(index)]  # type: ignore[arg-type]
        except TypeError:
            chosen = np.asarray(index.cpu() if isinstance(index, Tensor) else index)
        if isinstance(index, tuple) or chosen.ndim != 1:
            return self.to_tensor()[_decoded(index)]
        # Copies, as of a tensor that is indexed so.
        chosen = np.arange(len(self))[chosen if len(chosen) else []]
        return self._of([RLEMask(self.masks[i], self.device) for i in chosen])

    def __setitem__(self, index: Index | tuple | None, value: Any) -> None:
        bitmaps = self.to_tensor()
        bitmaps[_decoded(index)] = value
        for mask, changed in zip(self.masks, _encode(bitmaps)):
            mask.update(changed)

    def __repr__(self) -> str:
        return f'{type(self).__name__}(num_masks={len(self)}, height={self.height}, width={self.width})'

    @staticmethod
    def cat(masks: Sequence['RLEMasks']) -> 'RLEMasks':
        """Join the masks of one image."""
        sizes = {tuple(part.shape[1:]) for part in masks}
        if len(sizes) != 1:
            raise ValueError(f'masks of images of different sizes {sorted(sizes)} cannot be joined')
        return masks[0]._of([mask for part in masks for mask in part])

    def to_ndarray(self) -> np.ndarray:
        """The masks as bitmaps (n, H, W), bool."""
        bitmaps = np.zeros(self.shape, bool)
        for bitmap, mask in zip(bitmaps, self.masks):
            bitmap[:] = mask.decode()
        return bitmaps

    def to(self, *args, **kwargs) -> Union['RLEMasks', Tensor]:
        """The masks with another device, or in another type, as a tensor. Arguments are those of ``Tensor.to``."""
        moved = torch.empty(0, dtype=self.dtype, device=self.device).to(*args, **kwargs)
        if moved.dtype != self.dtype:
            return self.to_tensor().to(*args, **kwargs)
        return RLEMasks(self.masks, self.height, self.width, moved.device)

    def cpu(self) -> 'RLEMasks':
        """The masks, to be decoded on the CPU."""
        return RLEMasks(self.masks, self.height, self.width)

    def cuda(self, device: int | str | torch.device | None = None) -> Union['RLEMasks', Tensor]:
        """The masks, to be decoded on the GPU."""
        return self.to(torch.device('cuda') if device is None else device)

    def detach(self) -> 'RLEMasks':
        """The masks as they are."""
        return self

    def _of(self, masks: Sequence[dict]) -> 'RLEMasks':
        return RLEMasks(masks, self.height, self.width, self.device)


def place_rle(bitmap: np.ndarray, x: int, y: int, height: int, width: int) -> dict:
    """Encode a mask (h, w), bool, at (x, y) of a larger image, without a bitmap of that image."""
    # An empty row below, so that no run goes on from one column into the next.
    columns = np.pad(np.asarray(bitmap, dtype=np.int8), ((0, 1), (0, 0))).T
    column, row = np.divmod(np.flatnonzero(np.diff(columns.reshape(-1), prepend=0, append=0)), columns.shape[1])
    return encode_changes((x + column) * height + y + row, 1, height, width)[0]


def encode_changes(
    changes: np.ndarray, num_masks: int, height: int | np.ndarray, width: int | np.ndarray
) -> list[dict]:
    """Encode masks by the pixels at which they begin and end, in COCO's compressed run-length encoding.

    Args:
        changes: Numbers of pixels in any order, int64: mask * (height * width + 1) + column * height + row, where the
            largest image counts in the first product. Numbers that occur an even number of times cancel.
        num_masks: Number of masks, 1 or more.
        height, width: Height and width of the image, or of the image of each mask, shape (num_masks, ).
    """
    numbers, times = np.unique(changes, return_counts=True)
    changes = numbers[times % 2 == 1]

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
