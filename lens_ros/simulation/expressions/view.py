"""Describe the objects of one frame as an observer sees them: in sight, well visible, how far."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lens_ros.simulation.expressions.chance import shuffled

if TYPE_CHECKING:
    from lens_ros.simulation.scene import SceneObject

MIN_VISIBLE_FRACTION = 0.45  # of an answer or an anchor
MIN_AREA = 70.0  # pixels of an answer or an anchor, in an image of 256x256 pixels
MIN_LISTED_AREA = 25.0  # pixels of a candidate that the rationale names, in an image of 256x256 pixels
SIDE_MARGIN = 12.0  # pixels, left and right, in an image 256 pixels wide
MAX_NUMBER = 255  # that can be said

Measure = Callable[["SceneObject"], float]


class View:
    """The objects of one frame as an observer sees them."""

    def __init__(
        self, objects: tuple[SceneObject, ...], size: tuple[int, int], coordinate_extent: int
    ) -> None:
        width, height = size
        scale = width * height / 256**2
        self.size = size
        self.coordinate_extent = coordinate_extent
        self.side_margin = SIDE_MARGIN * width / 256
        self.min_listed_area = MIN_LISTED_AREA * scale
        self.center = {o.index: _box_center(o) for o in objects}
        self.seen = tuple(o for o in objects if o.area > 0)
        self.clear = tuple(
            o for o in self.seen if o.area >= MIN_AREA * scale and o.visible_fraction >= MIN_VISIBLE_FRACTION
        )
        self._clear_indices = frozenset(o.index for o in self.clear)

    def is_clear(self, o: SceneObject) -> bool:
        return o.index in self._clear_indices

    def x(self, o: SceneObject) -> float:
        return self.center[o.index][0]

    def point(self, o: SceneObject) -> tuple[int, int]:
        """Return the center of the visible box in the rationale's coordinates."""
        x, y = (
            min(max(round(c * self.coordinate_extent / s), 0), self.coordinate_extent - 1)
            for c, s in zip(self.center[o.index], self.size, strict=True)
        )
        return x, y

    def of_category(self, category: str) -> list[SceneObject]:
        return [o for o in self.seen if o.category == category]

    def by_category(self) -> dict[str, list[SceneObject]]:
        groups: dict[str, list[SceneObject]] = {}
        for o in self.seen:
            groups.setdefault(o.category, []).append(o)
        return groups

    def by_color(self) -> dict[str, list[SceneObject]]:
        groups: dict[str, list[SceneObject]] = {}
        for o in self.seen:
            groups.setdefault(o.color, []).append(o)
        return groups

    def only_clear(self, group: Sequence[SceneObject]) -> SceneObject | None:
        """Return the group's single member if it is well visible."""
        return group[0] if len(group) == 1 and self.is_clear(group[0]) else None

    def anchor_names(self, rng: np.random.Generator) -> list[tuple[SceneObject, str]]:
        """Return well visible objects that category, or color and category, single out, in random order."""
        named = []
        for o in shuffled(self.clear, rng):
            same = self.of_category(o.category)
            if len(same) == 1 and rng.random() < 0.65:
                named.append((o, f"the {o.category}"))
            elif sum(other.color == o.color for other in same) == 1:
                named.append((o, f"the {o.color} {o.category}"))
        return named


def _box_center(o: SceneObject) -> tuple[float, float]:
    x1, y1, x2, y2 = o.box
    return (x1 + x2) / 2, (y1 + y2) / 2


def distance_to(anchor: SceneObject) -> Measure:
    """Return the distance on the table, between the base centers."""

    def measure(o: SceneObject) -> float:
        return math.hypot(o.position[0] - anchor.position[0], o.position[1] - anchor.position[1])

    return measure


def forward(o: SceneObject) -> float:
    return o.forward


def distance(o: SceneObject) -> float:
    return o.distance


def extent(o: SceneObject) -> float:
    return o.extent


def centimeters(meters: float) -> int:
    return round(100 * meters)


def sayable(meters: float) -> bool:
    return 0 <= centimeters(meters) <= MAX_NUMBER
