"""Import once what lens_ros, its training and its tests use, so that Python writes its bytecode.

`make setup` runs this at its end, in the finished environment. Some modules are imported only while something
runs; to import these, lens-nano answers one instruction.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# In addition to the imports of the packages below: test tools, and parts that lens_ros imports on demand.
OTHERS = ("pytest", "xdist.plugin", "xdist.remote", "hypothesis.strategies", "_hypothesis_pytestplugin")
PACKAGES = ("lens_ros", "training", "benchmarks")


def modules_of(package: str) -> list[str]:
    """Return the names of all modules of a package in this checkout."""
    return [module.name for module in pkgutil.walk_packages([str(ROOT / package)], prefix=f"{package}.")]


def main() -> int:
    """Import everything. A missing optional part is reported, and the result is still 0."""
    sys.path.insert(0, str(ROOT))
    if sys.dont_write_bytecode:
        print("PYTHONDONTWRITEBYTECODE is set: nothing would be written; unset it", file=sys.stderr)
        return 2
    names = [*OTHERS, *(name for package in PACKAGES for name in modules_of(package))]
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            print(f"{name} was not imported: {error}", file=sys.stderr)
    if importlib.util.find_spec("rclpy") is not None:
        load_type_support()
    answer_once()
    return 0


def load_type_support() -> None:
    """Import what an action's endpoints import when they are created, without creating any."""
    from rclpy.type_support import check_for_type_support
    from type_description_interfaces.srv import GetTypeDescription

    from lens_ros.action import SegmentInstruction

    for interface in (SegmentInstruction, GetTypeDescription):
        check_for_type_support(interface)


def answer_once() -> None:
    """Read the demo recording, export lens-nano, answer an instruction, take one optimiser step."""
    import numpy as np
    import torch
    from PIL import Image

    from lens_ros.engine.build import build
    from lens_ros.engine.cache import EngineCache
    from lens_ros.lens import Lens
    from lens_ros.model.checkpoint import find_model
    from lens_ros.recordings import Recording

    with tempfile.TemporaryDirectory() as folder:
        if importlib.util.find_spec("onnx") is not None:
            build(find_model("lens-nano"), "onnxruntime", EngineCache(Path(folder)), Quiet())
        lens = Lens.from_pretrained("lens-nano", engine_cache=Path(folder))
        lens.segment(np.full((480, 640, 3), 128, np.uint8), "the mug")
    with Recording(ROOT / "demo" / "tabletop") as recording:
        next(recording.messages(recording.topics))
    Image.open(ROOT / "docs" / "images" / "contact_sheet.jpg").load()
    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.square().sum().backward()
    torch.optim.AdamW([parameter]).step()


class Quiet:
    """Progress receiver of a build that ignores all messages."""

    def say(self, text: str) -> None: ...

    def step(self, phase: str, done: int, of: int) -> None: ...


if __name__ == "__main__":
    # A user's engines and settings must not affect what is imported.
    os.environ.pop("LENS_ENGINE_CACHE", None)
    sys.exit(main())
