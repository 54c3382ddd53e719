"""Hold the active targets and hand out their ids."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from lens_ros.nodes.perception.tasks import Target

LAST_ID = 65535  # ids are uint16, and 0 means "no target"


class ActiveTargets:
    """Active targets by id, the oldest first. Not thread-safe: the scheduler's lock protects it."""

    def __init__(self) -> None:
        self._by_id: dict[int, Target] = {}
        self._last_id = 0

    def __iter__(self) -> Iterator[Target]:
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, instruction: str, in_progress: Collection[int]) -> Target:
        """Return a new target; its id is neither active nor among `in_progress`."""
        while True:
            self._last_id = self._last_id % LAST_ID + 1
            if self._last_id not in self._by_id and self._last_id not in in_progress:
                break
        target = self._by_id[self._last_id] = Target(self._last_id, instruction)
        return target

    def pop(self, target_id: int) -> Target | None:
        """Remove and return a target; None if there is none with that id."""
        return self._by_id.pop(target_id, None)

    def alone(self, instruction: str) -> Target | None:
        """Return the only target if it has this text, apart from blanks."""
        if len(self._by_id) != 1:
            return None
        (target,) = self._by_id.values()
        return target if target.instruction.split() == instruction.split() else None
