"""Find what ships with lens_ros: models and the demo recording."""

from __future__ import annotations

import os
from pathlib import Path

DEMO = Path("demo") / "tabletop"


def resource_roots() -> list[Path]:
    """Return the folders that may hold shipped resources, the first choice first.

    These are the checkout, the package itself (installed with pip), and the share folder of each ROS prefix.
    """
    package = Path(__file__).resolve().parent
    prefixes = [prefix for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    return [package.parent, package, *(Path(prefix) / "share" / "lens_ros" for prefix in prefixes)]


def find_demo() -> Path:
    """Return the folder of the demo recording; ``scene.json`` next to it lists its objects.

    Raises:
        FileNotFoundError: the recording is not installed; the message says where it was expected.
    """
    roots = resource_roots()
    for root in roots:
        if (root / DEMO / "metadata.yaml").is_file():
            return root / DEMO
    raise FileNotFoundError(f"the demo recording is missing; expected it in {roots[0] / DEMO}")
