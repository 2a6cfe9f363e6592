from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from shapely import Polygon, affinity, box, union_all
from shapely.geometry.base import BaseGeometry

SUPERSAMPLING = 4


class SceneInstance(NamedTuple):
    """One annotation of a scene: class index, visible region in pixels, and whether it is a crowd."""

    label: int
    region: BaseGeometry
    is_crowd: bool


class ShapeScene:
    """A square picture of textured shapes that lie on each other over a textured ground.

    A class is an outline, and hues that are typical of it but not its own: neighbours on the colour circle share
    them. Textures, sizes, angles and distortions are drawn for each object from the same distributions. Some scenes
    hold a crowd, a heap of tiny objects of one class.

    Args:
        rng: Source of all random choices: the same state gives the same scene.
        size: Side of the image in pixels.
        crowd_prob: Probability of a crowd.
    """

    classes = ('star', 'crescent', 'cross', 'gear', 'ring', 'blob')

    # Hue of each class on a circle of length 1, and the standard deviation about it
    hues = (1 / 6, 3 / 6, 0, 4 / 6, 5 / 6, 2 / 6)
    hue_std = 0.05
    # (probability, smallest radius, largest radius) of small, medium and large objects, in shares of the image's side
    radius_ranges = ((0.25, 0.12, 0.16), (0.45, 0.16, 0.24), (0.30, 0.24, 0.34))
    num_objects = (2, 6)
    # Each object shows at least this share of itself, and this share of the image.
    min_visible_share = 0.5
    min_visible_area = 0.006

    def __init__(self, rng: np.random.Generator, size: int, crowd_prob: float = 0.1) -> None:
        self._rng = rng
        self._size = size
        self._objects: list[tuple[int, BaseGeometry]] = []
        self._num_crowd = 0
        if rng.random() < crowd_prob:
            self._place_crowd()
        self._place_objects()
        self.instances = self._visible_instances()
        self.image = self._render()

    def _place_crowd(self) -> None:
        rng, size = self._rng, self._size
        label = int(rng.integers(len(self.classes)))
        centre = rng.uniform(0.25, 0.75, 2) * size
        for _ in range(rng.integers(10, 17)):
            shape = self._draw_shape(label, rng.uniform(0.035, 0.05) * size)
            self._objects.append((label, affinity.translate(shape, *(centre + rng.normal(0, 0.09, 2) * size))))
        self._num_crowd = len(self._objects)

    def _place_objects(self) -> None:
        rng, size = self._rng, self._size
        frame = box(0, 0, size, size)
        probs = [prob for prob, _, _ in self.radius_ranges]
        wanted = rng.integers(self.num_objects[0], self.num_objects[1] + 1)
        visible: list[tuple[BaseGeometry, float]] = []
        for _ in range(10 * wanted):
            if len(visible) == wanted:
                break
            label = int(rng.integers(len(self.classes)))
            _, low, high = self.radius_ranges[rng.choice(len(probs), p=probs)]
            shape = self._draw_shape(label, rng.uniform(low, high) * size)
            shape = affinity.translate(shape, *rng.uniform(0.08, 0.92, 2) * size)
            candidates = [(region.difference(shape), area) for region, area in visible]
            candidates.append((shape.intersection(frame), shape.area))
            if all(
                region.area >= max(self.min_visible_share * area, self.min_visible_area * size**2)
                for region, area in candidates
            ):
                visible = candidates
                self._objects.append((label, shape))

    def _visible_instances(self) -> list[SceneInstance]:
        frame = box(0, 0, self._size, self._size)
        regions = [
            shape.intersection(frame).difference(union_all([above for _, above in self._objects[i + 1 :]]))
            for i, (_, shape) in enumerate(self._objects)
        ]
        crowd = union_all(regions[: self._num_crowd])
        instances = []
        if crowd.area > 0:
            instances.append(SceneInstance(self._objects[0][0], crowd, True))
        for (label, _), region in zip(self._objects[self._num_crowd :], regions[self._num_crowd :]):
            instances.append(SceneInstance(label, region, False))
        return instances

    def _draw_shape(self, label: int, radius: float) -> BaseGeometry:
        """An outline of a class about the origin, randomly turned, squeezed and sheared."""
        rng = self._rng
        shape = _OUTLINES[self.classes[label]](rng)
        shape = affinity.scale(shape, 1, rng.uniform(0.8, 1), origin=(0, 0))
        shape = affinity.skew(shape, rng.uniform(-10, 10), origin=(0, 0))
        shape = affinity.rotate(shape, rng.uniform(0, 360), origin=(0, 0))
        shape = affinity.scale(shape, radius, radius, origin=(0, 0))
        x_min, y_min, x_max, y_max = shape.bounds
        return affinity.translate(shape, -(x_min + x_max) / 2, -(y_min + y_max) / 2)

    def _render(self) -> np.ndarray:
        rng, size = self._rng, self._size
        image = self._render_ground()
        light = rng.uniform(0, 2 * np.pi)
        shift = np.array([np.cos(light), np.sin(light)]) * 0.018 * size
        for label, shape in self._objects:
            thickness = np.clip(np.sqrt(shape.area) / (0.3 * size), 0.3, 1)
            alpha = self._coverage(shape)
            shadow = cv2.GaussianBlur(
                self._coverage(affinity.translate(shape, *shift * thickness)), (0, 0), 0.012 * size
            )
            image *= 1 - 0.55 * shadow[..., None]

            # The slope of the blurred outline is that of a rounded rim, lit from the side the shadow points away from.
            height = cv2.GaussianBlur(alpha, (0, 0), 0.015 * size * thickness)
            slope = cv2.Sobel(height, cv2.CV_32F, 1, 0) * shift[0] + cv2.Sobel(height, cv2.CV_32F, 0, 1) * shift[1]
            shade = 1 + np.clip(0.28 * slope, -0.45, 0.45)
            surface = self._render_surface(label, shape) * shade[..., None]
            image += alpha[..., None] * (surface - image)
        image += rng.normal(0, 0.012, image.shape)
        return np.round(255 * image.clip(0, 1)).astype(np.uint8)

    def _render_ground(self) -> np.ndarray:
        rng, size = self._rng, self._size
        base = colour(rng.random(), rng.uniform(0.08, 0.4), rng.uniform(0.35, 0.8))
        pattern = self._pattern(0.06, 0.2)
        clouds = sum(self._noise(cells) / np.sqrt(cells / 3) for cells in (3, 8, 20, 50))
        brightness = 1 + 0.12 * rng.random() * pattern + rng.uniform(0.12, 0.3) * clouds
        return base * brightness[..., None] * np.ones((size, size, 3), np.float32)

    def _render_surface(self, label: int, shape: BaseGeometry) -> np.ndarray:
        rng = self._rng
        hue, value = rng.normal(self.hues[label], self.hue_std), rng.uniform(0.5, 0.95)
        first = colour(hue, rng.uniform(0.4, 0.9), value)
        second = colour(hue + rng.uniform(-0.1, 0.1), rng.uniform(0.2, 0.9), value * rng.uniform(0.45, 0.85))
        mix = 0.5 + 0.5 * self._pattern(0.04, 0.1, shape.centroid.coords[0])
        grain = 1 + 0.07 * self._noise(60)
        return (first * mix[..., None] + second * (1 - mix[..., None])) * grain[..., None]

    def _pattern(
        self, shortest: float, longest: float, centre: tuple[float, float] = (0, 0), kind: str | None = None
    ) -> np.ndarray:
        """A texture in [-1, 1] whose period is drawn between two shares of the image's side."""
        rng, size = self._rng, self._size
        y, x = np.mgrid[:size, :size].astype(np.float32) + 0.5
        x, y = x - centre[0], y - centre[1]
        angle = rng.uniform(0, np.pi)
        u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
        scale = np.float32(2 * np.pi / (rng.uniform(shortest, longest) * size))
        kind = kind or rng.choice(['stripes', 'waves', 'checks', 'dots', 'rings', 'gradient', 'marble'])
        if kind == 'stripes':
            wave = np.sin(scale * u)
        elif kind == 'waves':
            wave = np.sin(scale * u + 1.2 * np.sin(0.7 * scale * v))
        elif kind == 'checks':
            wave = 2 * np.sin(0.7 * scale * u) * np.sin(0.7 * scale * v)
        elif kind == 'dots':
            wave = np.cos(scale * u) + np.cos(scale * v) - 0.6
        elif kind == 'rings':
            wave = np.sin(scale * np.hypot(u, v))
        elif kind == 'gradient':
            wave = 0.3 * scale * u
        else:
            wave = np.sin(scale * u + 2.5 * self._noise(10))
        return np.tanh(2 * wave)

    def _noise(self, cells: int) -> np.ndarray:
        """Smooth noise of variance about 1 with this many cells along a side."""
        grid = self._rng.standard_normal((cells, cells)).astype(np.float32)
        return cv2.resize(grid, (self._size, self._size), interpolation=cv2.INTER_CUBIC)

    def _coverage(self, shape: BaseGeometry) -> np.ndarray:
        """Share of each pixel that a shape without holes covers."""
        side = SUPERSAMPLING * self._size
        canvas = np.zeros((side, side), np.uint8)
        # fillPoly puts integers at pixels' centres; the shift gives it 4 binary digits after the point.
        points = np.array(shape.exterior.coords) * SUPERSAMPLING - 0.5
        cv2.fillPoly(canvas, [np.round(points * 16).astype(np.int32)], 255, shift=4)
        return cv2.resize(canvas, (self._size, self._size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _polar(angles: np.ndarray, radii: np.ndarray) -> Polygon:
    return Polygon(np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1))


def _star(rng: np.random.Generator) -> BaseGeometry:
    num_points = rng.integers(5, 8)
    radii = np.tile([1, rng.uniform(0.4, 0.52)], num_points)
    return _polar(np.arange(2 * num_points) * np.pi / num_points, radii)


def _crescent(rng: np.random.Generator) -> BaseGeometry:
    disc = Polygon(_circle(1))
    return disc.difference(affinity.translate(Polygon(_circle(rng.uniform(0.75, 0.85))), rng.uniform(0.5, 0.65)))


def _cross(rng: np.random.Generator) -> BaseGeometry:
    arm = rng.uniform(0.25, 0.38)
    return union_all([box(-1, -arm, 1, arm), box(-arm, -1, arm, 1)])


def _gear(rng: np.random.Generator) -> BaseGeometry:
    num_teeth = rng.integers(8, 12)
    root = rng.uniform(0.7, 0.78)
    angles = (np.arange(num_teeth)[:, None] + [0, 0.12, 0.42, 0.54]) * 2 * np.pi / num_teeth
    return _polar(angles.ravel(), np.tile([root, 1, 1, root], num_teeth))


def _ring(rng: np.random.Generator) -> BaseGeometry:
    gap = np.radians(rng.uniform(35, 80)) / 2
    angles = np.linspace(gap, 2 * np.pi - gap, 49)
    inner = np.full(49, rng.uniform(0.42, 0.52))
    return _polar(np.concatenate([angles, angles[::-1]]), np.concatenate([np.ones(49), inner]))


def _blob(rng: np.random.Generator) -> BaseGeometry:
    angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    waves = sum(rng.uniform(0.08, 0.2) * np.sin(k * angles + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4))
    return _polar(angles, (1 + waves) / (1 + waves).max())


def _circle(radius: float) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def colour(hue: float, saturation: float, value: float) -> np.ndarray:
    """BGR in [0, 1]; the hue is one of a circle of length 1."""
    hsv = np.array([[[360 * (hue % 1), saturation, value]]], np.float32)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0]


_OUTLINES: dict[str, Callable[[np.random.Generator], BaseGeometry]] = dict(
    star=_star, crescent=_crescent, cross=_cross, gear=_gear, ring=_ring, blob=_blob
)
