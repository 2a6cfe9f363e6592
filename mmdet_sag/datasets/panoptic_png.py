"""Panoptic PNG files of COCO: a pixel's colour is the id of its segment, R + 256 G + 65536 B; black is no segment."""

import mmcv
import numpy as np
from mmengine.fileio import get

_WEIGHTS = np.array([1, 256, 65536], dtype=np.int32)


def rgb_to_id(image: np.ndarray) -> np.ndarray:
    """Segment ids (H, W), int32, of an RGB image (H, W, 3)."""
    return image.astype(np.int32) @ _WEIGHTS


def id_to_rgb(ids: np.ndarray) -> np.ndarray:
    """RGB image (H, W, 3), uint8, of segment ids (H, W)."""
    return (ids[..., None] // _WEIGHTS % 256).astype(np.uint8)


def read_segment_ids(path: str, backend_args: dict | None = None) -> np.ndarray:
    """Read the segment ids (H, W) of a panoptic PNG."""
    return rgb_to_id(mmcv.imfrombytes(get(path, backend_args=backend_args), flag='color', channel_order='rgb'))
