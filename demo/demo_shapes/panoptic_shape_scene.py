from typing import NamedTuple

import cv2
import numpy as np

from .shape_scene import ShapeScene, colour


class SceneSegment(NamedTuple):
    """One segment of a scene: index among things, then stuff; its pixels (H, W); and whether it is a crowd."""

    label: int
    mask: np.ndarray
    is_crowd: bool


class PanopticShapeScene(ShapeScene):
    """A :class:`ShapeScene` whose ground is made of stuff: up to three regions with winding borders.

    The objects are those of the plain scene from the same state of ``rng``; ground and textures are others. Stuff is
    told by its texture and by a hue that varies, and is paler than things.

    Args:
        rng: Source of all random choices.
        size: Side of the image in pixels.
        crowd_prob: Probability of a crowd.
    """

    stuff_classes = ('water', 'grass', 'sand', 'brick', 'stone')

    # Texture, hue on a circle of length 1, saturation and value of each stuff class
    stuff_looks = (
        ('waves', 0.57, (0.3, 0.5), (0.45, 0.75)),
        ('grain', 0.28, (0.3, 0.5), (0.4, 0.7)),
        ('dots', 0.12, (0.2, 0.4), (0.6, 0.85)),
        ('checks', 0.02, (0.3, 0.5), (0.4, 0.7)),
        ('marble', 0.65, (0.0, 0.12), (0.4, 0.8)),
    )
    stuff_hue_std = 0.03
    region_probs = (0.3, 0.45, 0.25)

    def __init__(self, rng: np.random.Generator, size: int, crowd_prob: float = 0.1) -> None:
        super().__init__(rng, size, crowd_prob)
        self.segments = self._visible_segments()

    def _render_ground(self) -> np.ndarray:
        rng, size = self._rng, self._size
        number = rng.choice(len(self.region_probs), p=self.region_probs) + 1
        labels = rng.choice(len(self.stuff_classes), number, replace=False)
        y, x = np.mgrid[:size, :size].astype(np.float32) / size
        angle = rng.uniform(0, 2 * np.pi)
        height = np.cos(angle) * x + np.sin(angle) * y + 0.12 * self._noise(5)
        shares = np.cumsum(rng.uniform(0.7, 1.3, number))
        borders = np.quantile(height, shares[:-1] / shares[-1])
        self._ground = labels[np.digitize(height, borders)]

        image = np.zeros((size, size, 3), np.float32)
        for label in labels:
            share = cv2.GaussianBlur((self._ground == label).astype(np.float32), (0, 0), 0.6)
            image += share[..., None] * self._render_stuff(label)
        return image

    def _render_stuff(self, label: int) -> np.ndarray:
        rng = self._rng
        kind, hue, saturations, values = self.stuff_looks[label]
        base = colour(rng.normal(hue, self.stuff_hue_std), rng.uniform(*saturations), rng.uniform(*values))
        pattern = self._noise(64) if kind == 'grain' else self._pattern(0.04, 0.1, kind=kind)
        brightness = 1 + rng.uniform(0.08, 0.16) * pattern + 0.06 * self._noise(4) + 0.05 * self._noise(40)
        return base * brightness[..., None]

    def _visible_segments(self) -> list[SceneSegment]:
        # Numbers of segments by pixel: stuff by its label, then the crowd as one, then the objects.
        numbers = self._ground.copy()
        first = len(self.stuff_classes)
        for i, (_, shape) in enumerate(self._objects):
            numbers[self._coverage(shape) >= 0.5] = first + max(0, i - self._num_crowd + 1)
        segments = []
        for number in np.unique(numbers):
            mask = numbers == number
            if number < first:
                segments.append(SceneSegment(len(self.classes) + int(number), mask, False))
            else:
                is_crowd = number == first
                place = 0 if is_crowd else self._num_crowd + number - first - 1
                segments.append(SceneSegment(self._objects[place][0], mask, bool(is_crowd)))
        return segments
