"""Dense labels describe which object covers each cell."""

from __future__ import annotations

import cv2
import numpy as np

from lens_ros.simulation.catalog import CATEGORIES, COLORS
from training.data.tabletop import TabletopShards
from training.dense import dense_labels, fraction_box


def test_labels_name_the_object_under_each_cell(shards: TabletopShards) -> None:
    _, instances, objects = shards.scene(0)
    squashed = cv2.resize(np.ascontiguousarray(instances), (256, 256), interpolation=cv2.INTER_NEAREST)
    labels = dense_labels([squashed], [objects], 224)
    for item in objects:
        x1, y1, x2, y2 = fraction_box(squashed, item.index)
        column, row = int((x1 + x2) / 2 * 8), int((y1 + y2) / 2 * 8)
        token = row * 8 + column
        assert labels.token_category[0, token] == CATEGORIES.index(item.category)
        assert labels.token_color[0, token] == COLORS.index(item.color)
        assert np.allclose(labels.boxes[0, token], (x1, y1, x2, y2))
        fine = int((y1 + y2) / 2 * 64), int((x1 + x2) / 2 * 64)
        assert labels.owned[0][fine] == 1
        assert np.allclose(labels.owner_box[0][(slice(None), *fine)], (x1, y1, x2, y2))
    background = labels.token_category[0] == len(CATEGORIES)
    assert background.any()
    assert (labels.token_color[0][background] == -1).all()
    assert (labels.boxes[0][background] == 0).all()


def test_box_of_an_absent_object_is_empty() -> None:
    assert fraction_box(np.zeros((8, 8), np.uint8), 3) == (0, 0, 0, 0)
