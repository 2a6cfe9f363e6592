import numpy as np
import torch
import torch.nn.functional as F
from mmcv.ops import roi_align
from mmdet.structures.mask import BitmapMasks
from torch import Tensor


class TensorMasks(BitmapMasks):
    """Bitmaps (n, height, width), bool, that stay on their device: training targets are made of them there.

    To everything else they are MMDetection's ``BitmapMasks``, which are copied to the host where they are read.
    """

    def __init__(self, bitmaps: Tensor) -> None:
        self.bitmaps = bitmaps
        self.height, self.width = bitmaps.shape[1:]

    @property
    def masks(self) -> np.ndarray:
        """The bitmaps on the host, uint8, shape (n, height, width)."""
        return self.bitmaps.cpu().numpy().astype(np.uint8)

    def __len__(self) -> int:
        return len(self.bitmaps)

    def cropped(self, rois: Tensor, inds: Tensor, size: tuple[int, int]) -> Tensor:
        """Crop masks to RoIs (n, 4) and resize them, as :meth:`crop_and_resize` does, to (n, *size), bool.

        ``inds`` (n, ) are the indices of the RoIs' masks.
        """
        index = torch.cat([inds[:, None].to(rois), rois], dim=1)
        # An image for each mask, not a copy for each RoI.
        return roi_align(self.bitmaps[:, None].to(rois), index, size, 1.0, 0, 'avg', True).squeeze(1) >= 0.5

    def shares_inside(self, rois: Tensor, inds: Tensor) -> Tensor:
        """Share of each mask that lies in the whole pixels of an RoI, shape (n, ); arguments as for :meth:`cropped`."""
        sums = F.pad(self.bitmaps.cumsum(1, dtype=torch.int32).cumsum(2, dtype=torch.int32), (1, 0, 1, 0))
        x1, y1, x2, y2 = rois.long().unbind(1)
        (x1, x2), (y1, y2) = (
            (low.clamp(0, length), torch.maximum(high.clamp(0, length), low.clamp(0, length) + 1).clamp(max=length))
            for low, high, length in ((x1, x2, self.width), (y1, y2, self.height))
        )
        inside = sums[inds, y2, x2] - sums[inds, y1, x2] - sums[inds, y2, x1] + sums[inds, y1, x1]
        return (inside.double() / (sums[inds, -1, -1].double() + 1e-7)).float()
