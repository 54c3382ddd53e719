"""Adapt the model to the inference thread: parameters, memory, engines that fail, the choice of objects."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lens_ros.codes import Code, Coded
from lens_ros.nodes.perception import model_loading
from lens_ros.nodes.perception.parameters import PerceptionParameters
from lens_ros.system.memory import enough_memory, is_out_of_memory

if TYPE_CHECKING:
    from lens_ros.lens import Lens
    from lens_ros.segmentation import Segmentation

_THINK = {"auto": None, "always": True, "never": False}


class Inference:
    """Answer instructions with the loaded model; called by the inference thread (`tasks.Infer`).

    Args:
        lens: returns the loaded model; may raise.
        settings: returns the present parameters.
        engines_failed: is called when an engine fails; afterwards the model runs on another backend.
    """

    def __init__(
        self,
        lens: Callable[[], Lens],
        settings: Callable[[], PerceptionParameters],
        engines_failed: Callable[[Exception], None],
    ) -> None:
        self._lens = lens
        self._settings = settings
        self._engines_failed = engines_failed

    def __call__(
        self,
        rgb: np.ndarray,
        instructions: Sequence[str],
        *,
        on_text: Callable[[int, str], None],
        on_decode: Callable[[], None],
        cancelled: Callable[[], bool],
    ) -> list[Segmentation]:
        """Return one answer per instruction about `rgb`, (H, W, 3) uint8.

        If an engine fails, the batch is repeated once on the backend that replaces it.

        Raises:
            OutOfMemory: the message says what to do.
            Exception: what the model raises; also if `cancelled()` becomes true.
        """
        from lens_ros.engine.errors import EngineError

        settings = self._settings()
        height, width = rgb.shape[:2]
        ask = functools.partial(
            self._lens().segment_all,
            rgb,
            instructions,
            think=_THINK[settings.think],
            on_text=on_text,
            on_decode=on_decode,
            cancelled=cancelled,
            max_new_tokens=settings.max_new_tokens,
            score_threshold=None if settings.score_threshold < 0 else settings.score_threshold,
        )
        with enough_memory(
            f"{len(instructions)} instruction(s) about an image of {width}x{height} pixels",
            model_loading.ANSWERING_ADVICE,
        ):
            try:
                results = ask()
            except EngineError as error:
                if is_out_of_memory(error):
                    raise
                self._engines_failed(error)
                results = ask()
            except BaseException as error:
                if isinstance(error, Exception):
                    raise
                # A panic of a library written in Rust must not end this thread.
                raise RuntimeError(f"{type(error).__name__}: {error}") from error
        return [limited(result, max_instances=settings.max_instances) for result in results]


def limited(result: Segmentation, *, max_instances: int) -> Segmentation:
    """Return the answer with its objects best first; accepted ones beyond `max_instances` are rejected.

    Args:
        result: the model's answer.
        max_instances: most accepted objects; 0 sets no limit.
    """
    from lens_ros.instances import union

    found = sorted(result.instances, key=lambda instance: (bool(instance.rejected), -instance.score))
    accepted = sum(not instance.rejected for instance in found)
    if not 0 < max_instances < accepted:
        return dataclasses.replace(result, instances=tuple(found))
    worse = Coded(f"better ones were found (max_instances is {max_instances})", Code.TOO_MANY_FOUND)
    for row in range(max_instances, accepted):
        found[row] = dataclasses.replace(found[row], rejected=worse)
    return dataclasses.replace(result, instances=tuple(found), mask=union(found, result.mask.shape))
