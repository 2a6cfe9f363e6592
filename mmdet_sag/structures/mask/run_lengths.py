import numpy as np


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


def encode_changes(changes: np.ndarray, num_masks: int, height: int, width: int) -> list[dict]:
    """Encode masks by the pixels at which they begin and end.

    Args:
        changes: Numbers of pixels in any order, int64: mask * (height * width + 1) + column * height + row. Numbers
            that occur an even number of times cancel. They are sorted in place.
        num_masks: Number of masks, 1 or more.
        height: Height of the image.
        width: Width of the image.

    Returns:
        The masks in COCO's compressed run-length encoding: ``size`` and ``counts``, bytes.
    """
    changes.sort()
    new = np.ones(len(changes), bool)
    np.not_equal(changes[1:], changes[:-1], out=new[1:])
    firsts = np.flatnonzero(new)
    times = np.diff(firsts, append=len(changes))
    changes = changes[firsts[times & 1 == 1]]

    pixels = height * width
    mask, position = np.divmod(changes, pixels + 1)
    mask, position = mask[position < pixels], position[position < pixels]
    ends = np.searchsorted(mask, np.arange(num_masks), side='right')
    # Each mask's changes between 0 and the number of pixels: their differences are its run lengths.
    bounds = np.insert(position, np.repeat(ends, 2), np.tile([pixels, 0], num_masks))[:-1]
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
        dict(size=[height, width], counts=encoded[start:end])
        for start, end in zip(np.concatenate([[0], text_ends[:-1]]), text_ends)
    ]
