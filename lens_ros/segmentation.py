"""Hold the answer to one instruction on one image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lens_ros.instances import Instance

if TYPE_CHECKING:
    import supervision


@dataclass(frozen=True)
class Segmentation:
    """The answer to one instruction on one image.

    Attributes:
        instruction: what was asked for.
        instances: the objects that were found, accepted and rejected ones.
        mask: ``(H, W)`` bool, union of the accepted instances.
        reasoning: the chain of thought.
        answer: all that the reasoner wrote, verbatim.
        well_formed: the answer had the form that it was asked to have.
        reason: ``""``, or why there is no accepted instance.
        preprocess_ms, reason_ms, decode_ms: durations in milliseconds; instructions that were answered
            together share them.
        tokens: how many the reasoner wrote.
        model: name of the model.
        unchecked_mask: ``(H, W)`` bool, the segmenter's mask for the context prompt, whether the answer has
            boxes or not: what the paper's tables count, not for acting upon. None where boxes are the prompt.
        reasoned: the masks come from reasoning about this very image; false where they were tracked to it
            from an earlier one (:mod:`lens_ros.tracking.tracker`).
        score_threshold: least score of an accepted instance, as it was applied.

    Example:
        ``lens`` and ``picture`` are those of the example of :class:`~lens_ros.lens.Lens`.

        >>> answer = lens.segment(picture, "the laptop")
        >>> answer.instances, answer.reason
        ((), 'the reasoner found nothing that fits the instruction')
    """

    instruction: str
    instances: tuple[Instance, ...]
    mask: np.ndarray
    reasoning: str
    answer: str
    well_formed: bool
    reason: str
    preprocess_ms: float
    reason_ms: float
    decode_ms: float
    tokens: int
    model: str
    unchecked_mask: np.ndarray | None = None
    reasoned: bool = True
    score_threshold: float = 0.0

    def to_supervision(self) -> supervision.Detections:
        """Return the accepted instances as ``Detections`` of the package ``supervision``.

        Rejected instances are left out; without an accepted one, the result is empty.

        Returns:
            N detections: ``xyxy`` ``(N, 4)`` float32, pixels, ``x2``/``y2`` exclusive; ``mask`` ``(N, H, W)``
            bool; ``confidence`` ``(N,)`` float32, the scores; ``data["class_name"]`` ``(N,)`` str, the
            labels. Labels are free text, so there is no ``class_id``: give annotators
            ``color_lookup=ColorLookup.INDEX``.

        Raises:
            ImportError: ``supervision`` is not installed.

        Example:
            >>> detections = lens.segment(picture, "the red bottle").to_supervision()
            >>> detections.mask.shape, detections.data["class_name"].tolist()
            ((1, 480, 640), ['red bottle'])
        """
        try:
            import supervision
        except ImportError as error:
            raise ImportError(
                "to_supervision needs the package supervision: pip install supervision"
            ) from error
        accepted = [instance for instance in self.instances if not instance.rejected]
        return supervision.Detections(
            xyxy=np.array([instance.box for instance in accepted], np.float32).reshape(-1, 4),
            mask=np.array([instance.mask for instance in accepted], bool).reshape(-1, *self.mask.shape),
            confidence=np.array([instance.score for instance in accepted], np.float32),
            data={"class_name": np.array([instance.label for instance in accepted], str)},
        )


def not_asked(
    size: tuple[int, int],
    preprocess_ms: float,
    score_threshold: float,
    model: str,
    context_prompted: bool,
    instruction: str,
    reason: str,
) -> Segmentation:
    """Return the answer to an instruction that the model is not asked, because it cannot know the object.

    Args:
        size: height and width of the image in pixels.
        preprocess_ms, score_threshold, model, instruction, reason: as for :class:`Segmentation`.
        context_prompted: whether the model's masks have context prompts, so that ``unchecked_mask`` exists.
    """
    nothing = np.zeros(size, dtype=bool)
    return Segmentation(
        instruction=instruction,
        instances=(),
        mask=nothing,
        reasoning="",
        answer="",
        well_formed=True,
        reason=reason,
        preprocess_ms=preprocess_ms,
        reason_ms=0.0,
        decode_ms=0.0,
        tokens=0,
        model=model,
        unchecked_mask=nothing if context_prompted else None,
        score_threshold=score_threshold,
    )
