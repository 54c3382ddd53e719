"""Ask a running `perception` node where something is, and follow its reasoning while it is written.

    ros2 launch lens_ros perception.launch.py          # in another terminal, or a robot that runs it
    python examples/ask_the_robot.py "the leftmost mug" --mask mask.png

Without a picture the node takes the camera's next image. The exit status is 0 if something was accepted, 1 if
nothing was, 2 if there is no answer. Programs compare the code in
brackets (`lens_ros.codes.Code`); the sentence is for people.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from lens_ros.client import BlockingLensClient, LensError


def main() -> int:
    """Ask once and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("instruction")
    parser.add_argument("--node", default="perception", help="name of the node, with its namespace")
    parser.add_argument("--picture", type=Path, help="ask about this picture instead of the camera's image")
    parser.add_argument("--mask", type=Path, help="write the mask of the accepted objects here, as PNG")
    parser.add_argument(
        "--timeout",
        type=float,
        default=30.0,
        metavar="S",
        help="seconds to wait for the node, then for the answer (30)",
    )
    options = parser.parse_args()

    said = ""

    def follow(feedback) -> None:
        """Print what the reasoning has grown by."""
        nonlocal said
        if feedback.partial_reasoning.startswith(said):
            print(feedback.partial_reasoning[len(said) :], end="", flush=True)
            said = feedback.partial_reasoning

    try:
        with BlockingLensClient(options.node, server_timeout_s=options.timeout) as lens:
            answer = lens.ask(
                options.instruction, image=options.picture, on_feedback=follow, timeout_s=options.timeout
            )
    except LensError as error:
        print(f"ask_the_robot: {error} [{error.code.name}]", file=sys.stderr)
        return 2
    print()
    for found in answer.instances:
        verdict = found.message.rejected or f"{int(found.mask.sum())} pixels"
        print(f"{found.message.label}  box {found.box}  score {found.message.score:.2f}  {verdict}")
    if answer.mask is None:
        print(f"nothing: {answer.message.reason} [{answer.code.name}]")
        return 1
    if options.mask:
        Image.fromarray(answer.mask.astype(np.uint8) * 255).save(options.mask)
    return 0


if __name__ == "__main__":
    sys.exit(main())
