"""Track masks from image to image between two reasoning passes.

The box of an object's last mask, where it was and moved to where its colors now are, prompts the segmenter on
the next image. What comes out is held against what the object was; when neither is the same, the object is
lost: it yields no mask until it is seen again near where it was lost, or until the reasoner is asked again.
:class:`ReasonAgain` says when.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

from lens_ros.codes import Code, Coded
from lens_ros.instances import Instance, all_rejected, box_iou, box_of, union
from lens_ros.lens import Lens, SeenImage
from lens_ros.segmentation import Segmentation
from lens_ros.tracking.colors import color_histogram, color_peak
from lens_ros.tracking.rules import Checks, Observation, ReasonAgain, why_lost

__all__ = ["Carried", "Checks", "ReasonAgain", "Tracker"]

_BETTER_BY = 0.05  # more alike than what lies where it was, that something beside it must be
_NEW_COLORS = 0.05  # share of a new image in an object's colors: light may change slowly, objects may not


@dataclass(frozen=True)
class Carried:
    """A target on a new image.

    Attributes:
        segmentation: as the reasoner's answer, with ``reasoned`` false, the masks of this image, and the
            durations of this update (``reason_ms`` and ``tokens`` are 0). A lost instance has an empty mask,
            its last box, and is rejected.
        lost: per accepted instance of the answer, why it is lost; ``""`` where it is tracked.
    """

    segmentation: Segmentation
    lost: tuple[str, ...]

    @property
    def tracked(self) -> bool:
        """Whether every instance is tracked."""
        return not any(self.lost)


class Tracker:
    """Tracker of the accepted instances of several targets.

    An update costs one image encoding and one decoding of all instances as a batch; the language model is not
    used. Not thread-safe, and it uses the segmenter of ``lens``.
    """

    def __init__(self, lens: Lens, checks: Checks | None = None, *, mask_prompts: bool = False) -> None:
        """Create a tracker without targets.

        ``mask_prompts``: prompt with the last mask in addition to its box.
        """
        self._lens = lens
        self._mask_prompts = mask_prompts
        self._checks = checks or Checks()
        self._targets: dict[str, _Target] = {}

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the tracked targets, the oldest first."""
        return tuple(self._targets)

    def start(self, target: str, image: np.ndarray, answer: Segmentation) -> None:
        """Track an answer from now on; an earlier one of the same name is replaced.

        Args:
            target: any name, by which :meth:`update` reports.
            image: ``(H, W, 3)`` uint8 RGB, what ``answer`` is about. It may be older than what was updated
                last: the next update goes on from it.

        Raises:
            ValueError: the answer is of an image of another size.
        """
        if answer.mask.shape != image.shape[:2]:
            raise ValueError(
                f"the answer's masks are {answer.mask.shape}, the image {image.shape[:2]}: "
                "start with the image that was reasoned about"
            )
        items = [
            _Item(
                i.label,
                i.mask,
                i.box,
                int(np.count_nonzero(i.mask)),
                color_histogram(image, i.mask),
                i.score,
                i.expected_iou,
            )
            for i in answer.instances
            if not i.rejected
        ]
        self._targets[target] = _Target(answer, image.shape[:2], items)

    def stop(self, target: str) -> None:
        """Forget a target.

        Raises:
            KeyError: there is none of this name.
        """
        del self._targets[target]

    def update(self, image: np.ndarray | Image.Image | str | Path | SeenImage) -> dict[str, Carried]:
        """Find every target again.

        Args:
            image: the next one, as :meth:`Lens.look` takes it, or what that returned: then the same look
                serves a question to the reasoner. If its size differs from the image before, boxes are
                scaled.

        Returns:
            by name, in the order of :attr:`targets`. A target whose answer held nothing still holds nothing.

        Raises:
            ImageError: unusable input; nothing is changed.
        """
        seen = image if isinstance(image, SeenImage) else self._lens.look(image)
        started = time.perf_counter()
        for target in self._targets.values():
            target.scale_to(seen.size)
        items = [item for target in self._targets.values() for item in target.items]
        places = [item.places(seen.rgb) for item in items]
        before = None
        if self._mask_prompts:
            before = [item.mask for item, mine in zip(items, places, strict=True) for _ in mine]
        masks, scores = self._lens.decode_boxes(seen, [box for mine in places for box in mine], before)
        decoded = iter(zip(masks, scores, strict=True))
        for item, mine in zip(items, places, strict=True):
            item.follow(seen.rgb, mine, [next(decoded) for _ in mine], self._checks)
        for target in self._targets.values():
            _keep_apart(target.items, self._checks.apart)
        elapsed = 1e3 * (time.perf_counter() - started)
        return {
            name: target.carried(seen, elapsed, self._lens.model_id) for name, target in self._targets.items()
        }


@dataclass(frozen=True)
class _Find:
    """A mask decoded in one place; ``colors``: its histogram."""

    mask: np.ndarray
    box: tuple[float, float, float, float]
    colors: np.ndarray
    seen: Observation


def _find(
    item: _Item, rgb: np.ndarray, place: tuple[float, float, float, float], mask: np.ndarray, score: float
) -> _Find:
    box, colors = box_of(mask), color_histogram(rgb, mask)
    likeness = float(np.minimum(colors, item.colors).sum())
    area = int(np.count_nonzero(mask))
    return _Find(mask, box, colors, Observation(area, item.area, likeness, box_iou(place, box), score))


@dataclass
class _Item:
    """One tracked instance.

    ``mask``, ``box`` and ``area`` are of its last accepted mask; ``colors`` is a histogram, slowly averaged;
    ``score`` is the answer's: only reasoning can change it.
    """

    label: str
    mask: np.ndarray
    box: tuple[float, float, float, float]
    area: float
    colors: np.ndarray
    score: float
    expected_iou: float
    overlap: float = 1.0
    likeness: float = 1.0
    lost: str = ""

    def places(self, rgb: np.ndarray) -> list[tuple[float, float, float, float]]:
        """Return where to look for it: where it was, and where its colors are, nearby."""
        return [self.box, color_peak(rgb, self.colors, self.box)]

    def follow(
        self,
        rgb: np.ndarray,
        places: Sequence[tuple[float, float, float, float]],
        decoded: Sequence[tuple[np.ndarray, float]],
        checks: Checks,
    ) -> None:
        """Accept one of the decoded masks, with its expected IoU, or become lost."""
        finds = [_find(self, rgb, place, *each) for place, each in zip(places, decoded, strict=True)]
        reasons = [why_lost(find.seen, checks, was_lost=bool(self.lost)) for find in finds]
        good = [find for find, reason in zip(finds, reasons, strict=True) if not reason]
        if not good:
            self.lost = reasons[0]
            return
        self.lost = ""
        best = good[0]
        for find in good[1:]:
            if find.seen.likeness > best.seen.likeness + _BETTER_BY:
                best = find
        self.mask, self.box, self.area = best.mask, best.box, best.seen.area
        self.likeness, self.overlap, self.expected_iou = (
            best.seen.likeness,
            best.seen.overlap,
            best.seen.score,
        )
        self.colors = (1 - _NEW_COLORS) * self.colors + _NEW_COLORS * best.colors

    def instance(self, size: tuple[int, int]) -> Instance:
        if self.lost:
            empty = np.zeros(size, dtype=bool)
            return Instance(
                empty, self.box, 0.0, self.label, 0.0, rejected=Coded(f"lost: {self.lost}", Code.LOST)
            )
        return Instance(self.mask, self.box, self.score, self.label, self.overlap, "", self.expected_iou)


@dataclass
class _Target:
    answer: Segmentation
    size: tuple[int, int]
    items: list[_Item]

    def scale_to(self, size: tuple[int, int]) -> None:
        """Scale boxes and areas to an image of another size."""
        y, x = size[0] / self.size[0], size[1] / self.size[1]
        if self.size != size:
            for item in self.items:
                x1, y1, x2, y2 = item.box
                item.box, item.area = (x1 * x, y1 * y, x2 * x, y2 * y), item.area * x * y
        self.size = size

    def carried(self, seen: SeenImage, elapsed: float, model: str) -> Carried:
        instances = tuple(item.instance(seen.size) for item in self.items)
        lost = tuple(item.lost for item in self.items)
        reason = self.answer.reason
        if lost and all(lost):
            reason = all_rejected(instances)
        segmentation = dataclasses.replace(
            self.answer,
            instances=instances,
            mask=union(instances, seen.size),
            reason=reason,
            preprocess_ms=seen.preprocess_ms,
            reason_ms=0.0,
            decode_ms=elapsed,
            tokens=0,
            model=model,
            unchecked_mask=None,
            reasoned=False,
        )
        return Carried(segmentation, lost)


def _keep_apart(items: list[_Item], most: float) -> None:
    """Drop the less alike of two instances of one target that claim the same pixels."""
    for first, second in combinations(items, 2):
        if first.lost or second.lost:
            continue
        both = np.count_nonzero(first.mask & second.mask)
        if both and both > most * np.count_nonzero(first.mask | second.mask):
            less = min(first, second, key=lambda item: item.likeness)
            less.lost = "its mask has become that of another instance"
