"""Disturb a rendered depth image as a structured-light camera does."""

from __future__ import annotations

import cv2
import numpy as np

SIGMA = 0.002  # metres of noise at 1 m; it grows with the square of the depth
HOLES = 0.03  # share of the pixels without a measurement


def structured_light(depth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a depth image with noise, holes, and blended depth at the borders of objects.

    Args:
        depth: (H, W) float32 metres.
        rng: source of the noise.

    Returns:
        (H, W) float32 metres, NaN in the holes.
    """
    smooth = cv2.blur(depth, (3, 3))
    border = cv2.dilate(depth, np.ones((3, 3))) - cv2.erode(depth, np.ones((3, 3))) > 0.02
    bled = np.where(border, smooth, depth)
    noisy = bled + rng.normal(0.0, SIGMA, depth.shape) * bled**2
    noisy[rng.random(depth.shape) < HOLES] = np.nan
    return noisy.astype(np.float32)
