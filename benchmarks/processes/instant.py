"""Run the unchanged node `perception` with a model that takes no time.

`python -m benchmarks.processes.instant`
"""

from __future__ import annotations

from typing import Any

from benchmarks.processes.instant_model import InstantModel
from lens_ros.nodes.perception import model_loading, node

HEIGHT, WIDTH = 1080, 1920


def load_instant_model(settings: object) -> Any:
    """Replace `model_loading.load_lens`."""
    return InstantModel(HEIGHT, WIDTH)


if __name__ == "__main__":
    model_loading.load_lens = load_instant_model
    raise SystemExit(node.main())
