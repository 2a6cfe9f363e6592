from collections.abc import Iterable

import numpy as np

from .matched_image import MatchedImage, Outcome


def confusion_matrix(images: Iterable[MatchedImage], num_classes: int) -> np.ndarray:
    """Count which class became which.

    Args:
        images: Matched images.
        num_classes: Number of classes.

    Returns:
        Counts, shape (num_classes + 1, num_classes + 1): true classes by predicted ones. The last row is what was found
        where no object is (or none is left), the last column what was missed. Each object counts once in the rows, each
        detection once in the columns.
    """
    counts = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    for image in images:
        taken = set()
        for detection, outcome, partner in zip(image.detections, image.outcomes, image.partners):
            if outcome is Outcome.IN_CROWD:
                continue
            # The first detection of an object that was not found under its own name; those after it are too many.
            belongs = outcome is Outcome.RIGHT or (
                outcome is Outcome.WRONG_CLASS and image.objects_left[partner] and partner not in taken
            )
            row = num_classes
            if belongs:
                taken.add(partner)
                row = image.gt_labels[partner]
            counts[row, image.result.labels[detection]] += 1
        for missed in image.missed:
            counts[image.gt_labels[missed], num_classes] += 1
    return counts
