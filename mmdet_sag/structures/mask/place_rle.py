import numpy as np
import pycocotools.mask as mask_utils


def place_rle(bitmap: np.ndarray, x: int, y: int, height: int, width: int) -> dict:
    """Encode a mask at its place in a larger image, without a bitmap of that image.

    Args:
        bitmap: The mask, bool, shape (h, w).
        x: Column of its left edge in the image; it lies within.
        y: Row of its upper edge.
        height: Height of the image.
        width: Width of the image.

    Returns:
        The mask in COCO's run-length encoding.
    """
    # An empty row below: no run goes on from one column into the next.
    columns = np.pad(np.asarray(bitmap, dtype=np.int8), ((0, 1), (0, 0))).T
    changes = np.flatnonzero(np.diff(columns.reshape(-1), prepend=0, append=0))
    column, row = np.divmod(changes, columns.shape[1])
    places = (x + column) * height + y + row
    # Where a run reaches the lower edge of the image and the next starts at the upper one, they are one.
    joined = np.flatnonzero((places[1:] == places[:-1]) & (np.arange(1, len(places)) % 2 == 0))
    places = np.delete(places, np.concatenate([joined, joined + 1]))
    counts = np.diff(places, prepend=0, append=height * width)
    if len(counts) > 1 and counts[-1] == 0:
        counts = counts[:-1]
    return mask_utils.frPyObjects(dict(size=[height, width], counts=counts.tolist()), height, width)
