"""Pictures show found objects at their positions."""

from __future__ import annotations

import numpy as np
import pytest

from lens_ros.lens import Instance
from lens_ros.segmentation import Segmentation
from lens_ros.visualization import Tile, contact_sheet, overlay


def answer(rejected: str) -> Segmentation:
    mask = np.zeros((120, 160), bool)
    mask[60:100, 60:100] = True
    found = Instance(mask, (60, 60, 100, 100), 0.9, "red mug", 0.8, rejected)
    return Segmentation("the mug", (found,), mask, "", "", True, "", 0, 0, 0, 3, "m")


@pytest.mark.parametrize(("rejected", "channel"), [("", 1), ("box and mask disagree", 0)])
def test_masks_are_tinted_green_or_red(rejected: str, channel: int) -> None:
    gray = np.full((120, 160, 3), 100, np.uint8)
    picture = overlay(gray, answer(rejected))
    inside = picture[80, 80].astype(int)
    assert inside.argmax() == channel and inside[channel] > 130
    assert np.array_equal(picture[110, 20], gray[110, 20])
    assert np.array_equal(gray, np.full((120, 160, 3), 100, np.uint8))  # the input is not drawn upon


def test_overlay_of_another_image_is_refused() -> None:
    with pytest.raises(ValueError, match="overlay the image that was segmented"):
        overlay(np.zeros((60, 80, 3), np.uint8), answer(""))


def test_contact_sheet_holds_every_tile() -> None:
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    tiles = [Tile(np.full((60, 80, 3), c, np.uint8), f"title {c}", "words " * 40) for c in colors]
    sheet = contact_sheet(tiles, columns=2, width=200)
    for color in colors:
        assert (sheet == color).all(axis=-1).sum() > 200 * 150 * 0.9
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([], columns=2)
