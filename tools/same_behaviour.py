"""Compare what two revisions of this repository do, for commits that must not change behaviour.

    python tools/same_behaviour.py BEFORE [AFTER] [--only answers messages ...]

Each revision is checked out into a temporary folder. A probe then runs in each of them, in this environment:

- parity: golden outputs of the reference checkpoint (`tests/fixtures/parity`), as digests of tensors.
- answers: 200 questions about the demo recording to lens-nano: reasoning, answer, scores and masks.
- messages: all fields of the responses of `~/segment` of a real node to the eight instructions of the demo.
- training: metrics and weights of a few steps of each training program (`training.smoke`). Needs OpenGL.

Durations are left out. The exit status is 1 where anything differs, and the first differences are listed.
Both revisions use the interfaces that `make setup` built, so their `msg`, `srv` and `action` must be equal.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
INSTRUCTIONS = (
    "pick up the red bottle",
    "the leftmost mug",
    "the largest mug",
    "the can to the right of the white mug",
    "the yellow thing that is not a bowl",
    "something to clean the table with",
    "the mug that is not white",
    "the laptop",
)
FRAMES = 25
NODE_S = 120.0  # longest wait for the node's service
_DURATIONS = ("preprocess_ms", "reason_ms", "decode_ms")
_TIMED = ("seconds", "_s", "per_second", "time", "eta", "memory", "_mb")  # in names of metrics
_SHOWN = 10


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("before", help="git revision")
    parser.add_argument("after", nargs="?", default="HEAD", help="git revision (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=tuple(PROBES), default=tuple(PROBES))
    options = parser.parse_args(arguments)
    found = {}
    with tempfile.TemporaryDirectory(prefix="same-behaviour-") as folder:
        for name, revision in (("before", options.before), ("after", options.after)):
            tree = Path(folder) / name
            subprocess.run(
                ["git", "-C", str(ROOT), "worktree", "add", "--quiet", "--detach", str(tree), revision],
                check=True,
            )
            try:
                found[name] = {probe: _probed(tree, probe) for probe in options.only}
            finally:
                subprocess.run(["git", "-C", str(ROOT), "worktree", "remove", "--force", str(tree)])
    same = True
    for probe in options.only:
        before, after = found["before"][probe], found["after"][probe]
        differing = sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))
        print(f"{probe}: {len(before)} values, {len(differing)} differ")
        for key in differing[:_SHOWN]:
            print(f"  {key}: {before.get(key)} -> {after.get(key)}")
        same = same and not differing and bool(before)
    return 0 if same else 1


def _probed(tree: Path, probe: str) -> dict[str, Any]:
    """Run this file's probe with the packages of ``tree``; return its values by name."""
    print(f"{tree.name}: {probe}", file=sys.stderr, flush=True)
    result = tree / f"probe-{probe}.json"
    paths = os.pathsep.join([str(tree), os.environ.get("PYTHONPATH", "")])
    environment = {
        **os.environ,
        "PYTHONPATH": paths,
        "LENS_ENGINE_CACHE": str(tree / "engines"),
        "OMP_NUM_THREADS": "1",  # sums in one order
        "PYTHONHASHSEED": "0",
    }
    subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), "--probe", probe, str(result)],
        cwd=tree, env=environment, check=True,
    )  # fmt: skip
    return json.loads(result.read_text())


# --- probes: run in a checkout ----------------------------------------------------------------------------


def parity(tree: Path) -> Iterator[tuple[str, Any]]:
    """Yield each golden output's comparison, numbers included."""
    report = tree / "parity.json"
    checker = tree / "tests" / "fixtures" / "parity" / "parity_check.py"
    subprocess.run(
        [sys.executable, str(checker), "tests.parity_adapter:load", "--json", str(report)],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    for number, row in enumerate(json.loads(report.read_text())):
        yield f"{number}", row


def answers(tree: Path) -> Iterator[tuple[str, Any]]:
    """Yield texts, scores and a digest of the masks for each question."""
    from lens_ros.lens import Lens

    lens = Lens.from_pretrained("lens-nano", device="cpu", backend="torch")
    for number, rgb in enumerate(_demo_images()):
        for result, text in zip(lens.segment_all(rgb, INSTRUCTIONS), INSTRUCTIONS, strict=True):
            masks = [instance.mask for instance in result.instances]
            yield (
                f"{number} {text}",
                [
                    result.reasoning,
                    result.answer,
                    result.reason,
                    [float(instance.score) for instance in result.instances],
                    [instance.label for instance in result.instances],
                    _digest(b"".join(mask.tobytes() for mask in masks)),
                ],
            )


def messages(tree: Path) -> Iterator[tuple[str, Any]]:
    """Yield a digest of all fields of the response of a real node to each instruction.

    Serialized bytes would not do: the padding between fields is not initialized.
    """
    import rclpy
    from sensor_msgs.msg import Image

    from lens_ros.srv import Segment

    process = subprocess.Popen(
        [
            sys.executable, str(tree / "scripts" / "perception_node"), "--ros-args",
            "-p", "autostart:=true", "-p", "backend:=torch", "-p", "build_engines:=false",
        ],
    )  # fmt: skip
    try:
        rclpy.init()
        node = rclpy.create_node("same_behaviour")
        client = node.create_client(Segment, "/perception/segment")
        deadline = time.monotonic() + NODE_S
        rgb = next(_demo_images())
        image = Image(height=rgb.shape[0], width=rgb.shape[1], encoding="rgb8", step=3 * rgb.shape[1])
        image.header.frame_id, image.header.stamp.sec = "camera", 1
        image.data = rgb.tobytes()
        for text in INSTRUCTIONS:
            response = None
            while response is None or not response.success:  # it is not active at once
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no answer of the node to '{text}': {response}")
                if not client.wait_for_service(1.0):
                    continue
                future = client.call_async(Segment.Request(image=image, instruction=text))
                rclpy.spin_until_future_complete(node, future, timeout_sec=NODE_S)
                response = future.result()
            for duration in _DURATIONS:
                setattr(response.segmentation, duration, 0.0)
            yield text, [response.segmentation.reasoning, _digest(str(response).encode())]
        rclpy.shutdown()
    finally:
        process.terminate()
        process.wait()


def training(tree: Path) -> Iterator[tuple[str, Any]]:
    """Yield the metrics of each training program, and a digest of the weights that it wrote."""
    out = tree / "out-same-behaviour"
    for command in _first("training.smoke", "training.tools.smoke").commands(out):
        module, *arguments = shlex.split(command)
        if module.rpartition(".")[2] != "plot":
            # Older revisions draw new adapters from the global generator, which nothing seeds.
            code = f"import torch, {module} as m; torch.manual_seed(0); raise SystemExit(m.main({arguments}))"
            subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    for program in ("supervise", "align", "reinforce"):
        for number, line in enumerate((out / program / "metrics.jsonl").read_text().splitlines()):
            for name, value in _flat(json.loads(line)):
                if not any(name.endswith(timed) or timed in name.split("/") for timed in _TIMED):
                    yield f"{program} {number} {name}", value
        for weights in sorted((out / program / "model").glob("*.safetensors")):
            yield f"{program} {weights.name}", _digest(weights.read_bytes())
    shutil.rmtree(out)


PROBES: dict[str, Callable[[Path], Iterator[tuple[str, Any]]]] = {
    "parity": parity,
    "answers": answers,
    "messages": messages,
    "training": training,
}


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def _demo_images() -> Iterator[Any]:
    """Yield (H, W, 3) uint8 RGB images of the demo recording, evenly spaced."""
    import cv2
    import numpy as np
    from rosbags.highlevel import AnyReader

    with AnyReader([Path("demo/tabletop")]) as bag:
        color = [c for c in bag.connections if c.topic.endswith("color/image_raw/compressed")]
        raws = [(c, raw) for c, _, raw in bag.messages(connections=color)]
        for connection, raw in raws[:: max(1, len(raws) // FRAMES)][:FRAMES]:
            data = np.asarray(bag.deserialize(raw, connection.msgtype).data)
            yield np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _first(*names: str) -> Any:
    """Import the first of several modules that this revision has: moves rename them."""
    for name in names:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    raise ModuleNotFoundError(f"none of {', '.join(names)}")


def _probe(name: str, result: Path) -> None:
    result.write_text(json.dumps(dict(PROBES[name](Path.cwd()))))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--probe"]:
        _probe(sys.argv[2], Path(sys.argv[3]))
    else:
        raise SystemExit(main())
