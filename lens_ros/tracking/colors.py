"""Describe an object's colors and find them in an image, by histograms in CIELAB."""

from __future__ import annotations

import cv2
import numpy as np

from lens_ros.instances import box_of

_BINS = (16, 32, 32)  # of CIELAB's L, a, b: coarse in lightness, which changes with shadows and exposure
_WEIGHTS = (1, 2, 3, 2, 1)  # of a bin and its neighbours along each axis
_COMMON = 4  # times that an object's color must be rarer around it than in it, to count in full
_SAMPLES = 96  # pixels along the longer side of a box at which colors are read: enough at any resolution


def color_histogram(rgb: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the CIELAB histogram of the masked pixels.

    ``(L * a * b bins,)`` float32 with sum 1; zeros for an empty mask.

    Args:
        rgb: ``(H, W, 3)`` uint8. Of large masks, pixels on a grid are enough.
        mask: ``(H, W)`` bool.
    """
    x1, y1, x2, y2 = (int(v) for v in box_of(mask))
    step = max(1, max(x2 - x1, y2 - y1) // _SAMPLES)
    inside = np.ascontiguousarray(mask[y1:y2:step, x1:x2:step]).astype(np.uint8)
    if not inside.any():
        return np.zeros(int(np.prod(_BINS)), np.float32)
    lab = cv2.cvtColor(np.ascontiguousarray(rgb[y1:y2:step, x1:x2:step]), cv2.COLOR_RGB2LAB)
    counts = cv2.calcHist([lab], [0, 1, 2], inside, list(_BINS), [0, 256] * 3)
    for axis in range(3):
        counts = _spread(counts, axis)
    return counts.ravel() / counts.sum()


def _spread(counts: np.ndarray, axis: int) -> np.ndarray:
    """Spread each bin into its neighbours, because a color just beyond a bin's edge hardly differs."""
    length, reach = counts.shape[axis], len(_WEIGHTS) // 2
    padded = np.pad(counts, [(reach, reach) if k == axis else (0, 0) for k in range(3)])
    spread = np.zeros_like(counts)
    for start, weight in enumerate(_WEIGHTS):
        spread += weight * padded.take(range(start, start + length), axis)
    return spread


def color_peak(
    rgb: np.ndarray, colors: np.ndarray, box: tuple[float, float, float, float]
) -> tuple[float, float, float, float]:
    """Move ``box``, by its own size at most, to where most of ``colors`` is.

    The method is histogram back-projection (Swain and Ballard, "Color indexing", 1991), by the ratio to the
    colors around.

    Args:
        rgb: ``(H, W, 3)`` uint8.
        box: ``x1, y1, x2, y2`` in its pixels.
        colors: a histogram of :func:`color_histogram`.
    """
    x1, y1, x2, y2 = box
    width, height = x2 - x1, y2 - y1
    left, top = max(0, int(x1 - width)), max(0, int(y1 - height))
    right, bottom = min(rgb.shape[1], int(x2 + width)), min(rgb.shape[0], int(y2 + height))
    step = max(1, int(max(width, height)) // _SAMPLES)
    around = rgb[top:bottom:step, left:right:step]
    if not around.size:
        return box
    lab = cv2.cvtColor(np.ascontiguousarray(around), cv2.COLOR_RGB2LAB).astype(np.int64)
    bins = np.ravel_multi_index(tuple(lab[..., k] * _BINS[k] // 256 for k in range(3)), _BINS)
    share = np.bincount(bins.ravel(), minlength=colors.size) / bins.size
    alike = np.minimum(1, colors / np.maximum(_COMMON * share, 1e-6))[bins].astype(np.float32)
    window = (max(1, int(width / step)), max(1, int(height / step)))
    found = cv2.blur(alike, window, borderType=cv2.BORDER_CONSTANT)
    y, x = np.unravel_index(int(found.argmax()), found.shape)
    center_x, center_y = left + int(x) * step, top + int(y) * step
    return (
        center_x - width / 2,
        center_y - height / 2,
        center_x + width / 2,
        center_y + height / 2,
    )
