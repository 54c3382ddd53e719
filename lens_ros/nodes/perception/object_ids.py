"""Give objects ids that stay the same from answer to answer."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from lens_ros.instances import Instance, box_iou

SAME_OBJECT = 0.3  # least IoU of two boxes that belong to one object
LAST_ID = 65535  # ids are uint16, and 0 is the background of the labels image


Box = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels


class ObjectIds:
    """Ids of instances, unique among all targets.

    An instance of a target keeps the id of the one it overlaps most in the target's previous answer; others
    get ids that no target uses. Call `forget` when a target ends. Not thread-safe.
    """

    def __init__(self) -> None:
        self._known: dict[Hashable, list[tuple[int, Box]]] = {}
        self._last = 0

    def assign(self, owner: Hashable, instances: Sequence[Instance]) -> list[int]:
        """Return one id for each instance, in their order; they replace what was known of `owner`.

        An empty answer does not: an object that is missed once and then found where it was keeps its id.
        """
        previous = self._known.get(owner, [])
        alike = sorted(
            (
                (box_iou(before, instance.box), row, number)
                for row, instance in enumerate(instances)
                for number, before in previous
            ),
            key=lambda each: each[0],
            reverse=True,
        )
        ids: dict[int, int] = {}
        for overlap, row, number in alike:
            if overlap >= SAME_OBJECT and row not in ids and number not in ids.values():
                ids[row] = number
        taken = {number for known in self._known.values() for number, _ in known}
        for row in range(len(instances)):
            if row not in ids:
                ids[row] = self._new(taken)
                taken.add(ids[row])
        numbers = [ids[row] for row in range(len(instances))]
        if instances:
            self._known[owner] = [(n, instance.box) for n, instance in zip(numbers, instances, strict=True)]
        return numbers

    def forget(self, owner: Hashable) -> None:
        """Free the ids of a target that has ended."""
        self._known.pop(owner, None)

    def clear(self) -> None:
        """Forget all objects; new ones get unused ids as long as there are any."""
        self._known.clear()

    def _new(self, taken: set[int]) -> int:
        for _ in range(LAST_ID):
            self._last = self._last % LAST_ID + 1
            if self._last not in taken:
                return self._last
        raise RuntimeError(f"more than {LAST_ID} objects at once")
