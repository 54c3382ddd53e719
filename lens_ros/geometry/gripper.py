"""The dimensions of a parallel-jaw gripper and the frame in which its pose is stated."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

AXES = ("x", "y", "z")


@dataclass(frozen=True)
class Gripper:
    """Describe a parallel-jaw gripper as two boxes (fingers) and a third one (palm). Lengths are metres.

    Attributes:
        min_opening, max_opening: least and largest distance between the inner faces of the fingers.
        finger_length: from the palm to the fingertips, along the approach.
        finger_width: across both the approach and the closing direction.
        finger_thickness: along the closing direction.
        palm_length: along the approach. palm_width: across, as `finger_width`.
        palm_thickness: along the closing direction; the open fingers may stand out beyond it.
        tcp_depth: from the fingertips back to the origin of the TCP frame.
        approach_axis: axis of the TCP frame along which the gripper advances: x, y or z.
        closing_axis: axis of the TCP frame along which the fingers close; another one of x, y, z.

    Raises:
        ValueError: a length is not finite or out of its range, or the axes are not two of x, y and z.
    """

    min_opening: float = 0.0
    max_opening: float = 0.10
    finger_length: float = 0.06
    finger_width: float = 0.02
    finger_thickness: float = 0.005
    palm_length: float = 0.06
    palm_width: float = 0.05
    palm_thickness: float = 0.09
    tcp_depth: float = 0.01
    approach_axis: str = "z"
    closing_axis: str = "x"

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_axis"):
                if value not in AXES:
                    raise ValueError(f"gripper: {field.name} is {value!r}; expected x, y or z")
            elif not np.isfinite(value) or value < 0:
                raise ValueError(f"gripper: {field.name} is {value}; expected metres, 0 or more")
            elif value == 0 and field.name not in ("min_opening", "tcp_depth"):
                raise ValueError(f"gripper: {field.name} is 0; expected more than 0 metres")
        if self.min_opening >= self.max_opening:
            raise ValueError(
                f"gripper: min_opening {self.min_opening} m is not below max_opening {self.max_opening} m"
            )
        if self.tcp_depth > self.finger_length:
            raise ValueError(
                f"gripper: tcp_depth {self.tcp_depth} m is beyond finger_length {self.finger_length} m"
            )
        if self.approach_axis == self.closing_axis:
            raise ValueError(f"gripper: approach_axis and closing_axis are both {self.approach_axis!r}")

    @property
    def reach(self) -> float:
        """Bound the distance in metres from the object to any point of the gripper that holds it."""
        across = max(self.palm_thickness / 2, self.max_opening / 2 + self.finger_thickness)
        return self.finger_length + self.palm_length + across + max(self.palm_width, self.finger_width) / 2

    def tcp_rotation(self) -> np.ndarray:
        """Return (3, 3) grasp_from_tcp: the axes of the TCP frame in (closing, lateral, approach)."""
        rotation = np.zeros((3, 3))
        closing, approach = AXES.index(self.closing_axis), AXES.index(self.approach_axis)
        rotation[0, closing] = rotation[2, approach] = 1
        lateral = 3 - closing - approach
        rotation[1, lateral] = 1
        rotation[1, lateral] = np.linalg.det(rotation)  # right-handed
        return rotation

    def occupied(
        self, across: np.ndarray, lateral: np.ndarray, ahead: np.ndarray, opening: np.ndarray, travel: float
    ) -> np.ndarray:
        """Return which points the gripper touches while it advances to its place.

        Args:
            across, lateral, ahead: the points' metres from the middle between the fingertips along the
                closing, lateral and approach directions, of one shape.
            opening: metres between the fingers, broadcast against that shape.
            travel: metres that the gripper advances in a straight line before it arrives.

        Returns:
            Bool of that shape.
        """
        across, lateral = np.abs(across), np.abs(lateral)
        inner, behind = opening / 2, -self.finger_length
        end = behind - self.palm_length - travel
        finger = (ahead < 0) & (lateral < self.finger_width / 2)
        finger &= (across > inner) & (across < inner + self.finger_thickness)
        palm = (ahead < behind) & (across < self.palm_thickness / 2) & (lateral < self.palm_width / 2)
        return (finger | palm) & (ahead > end)

    def corners(self, opening: np.ndarray) -> np.ndarray:
        """Return (K, 16, 3) corners of fingers and palm, as in `occupied`, for K openings."""
        half = np.asarray(opening, float)[:, None] / 2 + np.array([0.0, self.finger_thickness])
        across = np.concatenate([half, -half], 1)  # (K, 4)
        fingers = np.stack(
            [
                np.stack(
                    [across, np.full_like(across, side * self.finger_width / 2), np.full_like(across, z)], -1
                )
                for side in (-1, 1)
                for z in (0.0,)
            ],
            1,
        ).reshape(len(half), 8, 3)
        palm = np.array(
            [
                (x * self.palm_thickness / 2, y * self.palm_width / 2, -self.finger_length - z)
                for x in (-1, 1)
                for y in (-1, 1)
                for z in (0.0, self.palm_length)
            ]
        )
        return np.concatenate([fingers, np.broadcast_to(palm, (len(half), *palm.shape))], 1)
