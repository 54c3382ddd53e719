"""Track targets between reasoning passes; decide when to reason again.

Adapts `lens_ros.tracking.tracker` to the worker's targets. Knows neither ROS nor threads: the worker calls it
from its own thread, also between two tokens of an answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from lens_ros.nodes.perception.tasks import Target
from lens_ros.system.memory import enough_memory

if TYPE_CHECKING:
    from lens_ros.segmentation import Segmentation
    from lens_ros.tracking.tracker import Carried, ReasonAgain

ADVICE = "Follow fewer targets (parameters max_targets, tracking), send smaller images, or end other programs"


class Carrier(Protocol):
    """Part of `lens_ros.tracking.tracker.Tracker` that is used here."""

    @property
    def targets(self) -> tuple[str, ...]: ...

    def start(self, target: str, image: np.ndarray, answer: Segmentation) -> None: ...

    def stop(self, target: str) -> None: ...

    def update(self, image: np.ndarray) -> dict[str, Carried]: ...


@dataclass(frozen=True)
class Followed:
    """A target on a new image; `ask_again` if it is lost or was never found, and another pass is due."""

    target: Target
    result: Segmentation
    ask_again: bool


@dataclass
class _Known:
    """A tracked target; `holds` if its answer has accepted objects."""

    target: Target
    again: ReasonAgain
    holds: bool


class TargetFollower:
    """Tracker of targets that were found; drops targets that have ended."""

    def __init__(self, tracker: Carrier, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._tracker = tracker
        self._clock = clock
        self._followed: dict[str, _Known] = {}

    @property
    def active(self) -> bool:
        """Whether there is anything to follow."""
        return any(not known.target.ended for known in self._followed.values())

    def follows_others(self, targets: Sequence[Target]) -> bool:
        """Return whether it tracks any target but these."""
        return any(
            not known.target.ended and known.target not in targets for known in self._followed.values()
        )

    def asked(self, targets: Sequence[Target]) -> None:
        """Note that the reasoner starts on these targets."""
        for target in targets:
            known = self._followed.get(str(target.id))
            if known is not None and known.target is target:
                known.again.asked(self._clock())

    def start(self, target: Target, rgb: np.ndarray, answer: Segmentation) -> None:
        """Track an answer about the image `rgb`, (H, W, 3) uint8, from now on.

        Rejected objects are not followed. An answer without accepted ones, because it finds nothing or is too
        unsure of it, does not end what is followed already: it may come of what passed by. Where nothing is,
        the target goes on with the newest reason, and is asked about again.
        """
        from lens_ros.tracking.tracker import ReasonAgain

        name = str(target.id)
        known = self._followed.get(name)
        if known is None or known.target is not target:
            known = _Known(target, ReasonAgain(), holds=False)
        accepted = any(not instance.rejected for instance in answer.instances)
        if accepted or not known.holds:
            self._tracker.start(name, rgb, answer)
            known.holds = accepted
        self._followed[name] = known

    def follow(self, rgb: np.ndarray) -> list[Followed]:
        """Return every active target on the next image; raise what the model raises."""
        for name in self._tracker.targets:
            if self._followed[name].target.ended:
                self._drop(name)
        if not self._followed:
            return []
        now = self._clock()
        followed = []
        with enough_memory(f"following {len(self._followed)} target(s)", ADVICE):
            update = self._tracker.update(rgb)
        for name, carried in update.items():
            known = self._followed[name]
            result = carried.segmentation
            nothing = all(instance.rejected for instance in result.instances)
            known.again.observe(now, nothing or not carried.tracked)
            followed.append(Followed(known.target, result, known.again.due(now)))
        return followed

    def clear(self) -> None:
        """Stop tracking all targets."""
        for name in self._tracker.targets:
            self._drop(name)

    def _drop(self, name: str) -> None:
        self._tracker.stop(name)
        del self._followed[name]
