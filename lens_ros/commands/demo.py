"""Run the demo (`make run`): a recorded camera and the node `perception`, asked over ROS 2.

    python -m lens_ros.commands.demo --out out
    python -m lens_ros.commands.demo --out out --ask "the blue mug"

Prints the reasoning while it is generated; writes an overlay for each answer and one contact sheet to the
output folder. Exit codes: 0 done, 1 something did not work (the message says what), 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import cv2
import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image
from std_msgs.msg import String

from lens_ros import interrupts
from lens_ros.msg import Instance, Reasoning, Segmentation
from lens_ros.resources import DEMO, find_demo
from lens_ros.ros import conversions, starting
from lens_ros.ros.driver import (
    ACTIVATE,
    CONFIGURE,
    Driver,
    NodeProcess,
    ProcessError,
    end_ros,
    isolate,
    own_domain,
)
from lens_ros.ros.middleware import fitted_profile
from lens_ros.ros.starting import StartError

# About the scene in demo/. Each is true of exactly one object, except the last, which is true of none.
# lens-nano answers all of them right, and above its threshold, from every view of the recording. For scenes
# that nobody chose, see docs/results/lens_nano.md.
QUESTIONS = (
    ("attribute", "pick up the red bottle"),
    ("superlative", "the leftmost mug"),
    ("size", "the largest mug"),
    ("relation", "the can to the right of the white mug"),
    ("other than", "the yellow thing that is not a bowl"),
    ("function", "something to clean the table with"),
    ("negation", "the mug that is not white"),
    ("absent", "the laptop"),
)
START_TIMEOUT = 180.0  # seconds; a loaded machine takes its time to import torch
ANSWER_TIMEOUT = 90.0


@dataclass
class Shown:
    """The answer to one instruction, and the overlay `rgb`, (H, W, 3) uint8."""

    kind: str
    instruction: str
    segmentation: Segmentation
    rgb: np.ndarray
    path: Path

    @property
    def accepted(self) -> list[Instance]:
        return [instance for instance in self.segmentation.instances if not instance.rejected]

    @property
    def milliseconds(self) -> float:
        message = self.segmentation
        return message.preprocess_ms + message.reason_ms + message.decode_ms

    @property
    def found(self) -> str:
        """The labels of the accepted objects, or that there are none."""
        return ", ".join(instance.label or "object" for instance in self.accepted) or "nothing"


class Printer:
    """Prints text that grows: in place on a terminal, clause by clause elsewhere (a log, a pipe)."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._in_place = out.isatty()
        self._shown = ""

    def begin(self, title: str) -> None:
        """Begin a new text under a title."""
        self._shown = ""
        self._out.write(f"\n> {title}\n" if not self._in_place else f"\n\033[1m> {title}\033[0m\n  ")
        self._out.flush()

    def grow(self, text: str, finished: bool) -> None:
        """Show the new part of `text`, which holds all of it so far."""
        if not text.startswith(self._shown):  # a late correction: shown in full once more
            self._out.write("\n  " if self._in_place else "")
            self._shown = ""
        new = text[len(self._shown) :]
        if self._in_place:
            self._out.write(new + ("\n" if finished else ""))
            self._shown = text
        else:
            # Up to the last clause that is complete.
            end = len(new) if finished else max(new.rfind(mark) + 1 for mark in (". ", "; "))
            for clause in re.split(r"(?<=[.;]) ", new[:end]):
                if clause.strip():
                    self._out.write(f"  {clause.strip()}\n")
            self._shown += new[:end]
        self._out.flush()


@dataclass
class Inbox:
    """Messages received so far; overlays by the stamp of their image."""

    printer: Printer
    instruction: str = ""
    segmentation: Segmentation | None = None
    overlays: dict[tuple[int, int], Image] = field(default_factory=dict)
    reasoned: bool = False

    def ask(self, instruction: str) -> None:
        self.instruction, self.segmentation, self.reasoned = instruction, None, False
        self.overlays.clear()

    def on_reasoning(self, message: Reasoning) -> None:
        if message.instruction == self.instruction and not self.reasoned:
            self.reasoned = message.finished
            self.printer.grow(message.text, message.finished)

    def on_segmentation(self, message: Segmentation) -> None:
        if message.instruction == self.instruction:
            self.segmentation = message

    def on_overlay(self, message: Image) -> None:
        self.overlays[_stamp(message)] = message

    @property
    def complete(self) -> bool:
        """Whether the answer, its last word and its picture are there; a missing answer has no picture."""
        answer = self.segmentation
        return answer is not None and self.reasoned and (not answer.tokens or _stamp(answer) in self.overlays)


class Demo:
    """The two processes of the demo, and the questions asked of them."""

    def __init__(self, driver: Driver, out: Path, printer: Printer) -> None:
        self._driver = driver
        self._out = out
        self._printer = printer
        self._inbox = Inbox(printer)
        node = driver.node
        node.create_subscription(Reasoning, "reasoning", self._inbox.on_reasoning, 50)
        node.create_subscription(Segmentation, "segmentation", self._inbox.on_segmentation, 10)
        node.create_subscription(Image, "overlay", self._inbox.on_overlay, 5)
        self._instructions = node.create_publisher(String, "instruction", 10)

    def start(self, perception: NodeProcess) -> None:
        """Activate `perception` and wait until it listens."""
        for transition, word in ((CONFIGURE, "configured"), (ACTIVATE, "activated")):
            if not self._driver.change_state("perception", transition, START_TIMEOUT):
                raise ProcessError(f"perception could not be {word}; it says:\n{perception.tail()}")
        self._driver.wait_until(
            self._instructions.get_subscription_count, START_TIMEOUT, "a subscription to instructions"
        )

    def ask(self, number: int, kind: str, instruction: str) -> Shown:
        """Send an instruction, show the reasoning, save the picture; return the answer."""
        self._printer.begin(f"{instruction}   [{kind}]" if kind else instruction)
        self._inbox.ask(instruction)
        self._instructions.publish(String(data=instruction))
        self._driver.wait_until(lambda: self._inbox.complete, ANSWER_TIMEOUT, f"an answer to '{instruction}'")
        segmentation = self._inbox.segmentation
        assert segmentation is not None
        if not segmentation.tokens:
            raise ProcessError(f"'{instruction}' was not answered: {segmentation.reason}")
        rgb = conversions.image_to_rgb(self._inbox.overlays[_stamp(segmentation)])
        path = self._out / f"{number}-{_slug(instruction)}.png"
        _write_picture(path, rgb)
        return Shown(kind, instruction, segmentation, rgb, path)


def run(bag: Path, out: Path, questions: Sequence[tuple[str, str]], model: str) -> list[Shown]:
    """Play the recording, ask every question and write the pictures; raise `ProcessError`."""
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("[0-9]*-*.png"):
        old.unlink()
    logs = out / "logs"
    logs.mkdir(exist_ok=True)
    os.environ.setdefault("ROS_LOG_DIR", str(logs.resolve()))
    isolate(own_domain())
    print(f"camera: {bag}; nodes `camera` and `perception` on ROS_DOMAIN_ID {os.environ['ROS_DOMAIN_ID']}")
    with fitted_profile() as trouble:
        # main() ends the nodes in order.
        starting.init([], signal_handler_options=SignalHandlerOptions.NO)
        node = rclpy.create_node("demo")
    if trouble:
        node.get_logger().warning(trouble)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    driver = Driver(node, executor)
    try:
        with (
            NodeProcess(
                "lens_ros.nodes.camera.node", logs / "camera.log", parameters={"source": str(bag)}
            ) as camera,
            NodeProcess(
                "lens_ros.nodes.perception.node",
                logs / "perception.log",
                # One picture for each answer: nothing is followed to the images after it. And making engines
                # would take longer than the demo.
                parameters={
                    "model": model,
                    "image_transport": "compressed",
                    "depth_transport": "raw",
                    "depth_slop_ms": 110,  # the recording has depth with every other image, 200 ms apart
                    "tracking": False,
                    "build_engines": False,
                },
            ) as perception,
        ):
            driver.processes = [camera, perception]
            demo = Demo(driver, out, Printer(sys.stdout))
            demo.start(perception)
            return [demo.ask(number, *question) for number, question in enumerate(questions, start=1)]
    finally:
        executor.shutdown()
        node.destroy_node()
        end_ros()


def contact_sheet(answers: Sequence[Shown]) -> np.ndarray:
    """Return all overlays in one picture, (H, W, 3) uint8 RGB."""
    from lens_ros import (
        visualization,
    )  # here and not above: it loads torch, which the processes need meanwhile

    tiles = [
        visualization.Tile(answer.rgb, answer.instruction, answer.segmentation.reasoning)
        for answer in answers
    ]
    return visualization.contact_sheet(tiles, columns=min(3, len(tiles)))


def table(answers: Sequence[Shown]) -> str:
    """Return one line for each answer; places are in the frame of the camera, x right, y down, z forward."""
    rows = [("instruction", "found", "box", "place in m", "score", "ms")]
    for answer in answers:
        boxes, places, scores = [], [], []
        for instance in answer.accepted:
            box = instance.box
            right, bottom = box.x_offset + box.width, box.y_offset + box.height
            boxes.append(f"{box.x_offset},{box.y_offset} {right},{bottom}")
            scores.append(f"{instance.score:.2f}")
            at = instance.pose.position
            places.append(f"{at.x:.2f} {at.y:.2f} {at.z:.2f}" if instance.has_pose else "-")
        found = answer.found if answer.accepted else f"nothing: {answer.segmentation.reason}"
        rows.append(
            (
                answer.instruction,
                found,
                "; ".join(boxes),
                "; ".join(places),
                "; ".join(scores),
                f"{answer.milliseconds:.0f}",
            )  # fmt: skip
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m lens_ros.commands.demo",
        description="A recorded camera, asked over ROS 2 what is where.",
    )
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for pictures and logs")
    parser.add_argument("--bag", type=Path, help=f"rosbag2 folder or folder of pictures (default: {DEMO})")
    parser.add_argument("--ask", metavar="TEXT", help="the only instruction, instead of the demo's own")
    parser.add_argument("--model", default="lens-nano", help="name or folder of the model")
    options = parser.parse_args(arguments)
    if options.bag is not None and options.ask is None:
        parser.error("the demo's questions are about its own recording: say what to look for with --ask")
    questions = [("", options.ask)] if options.ask is not None else QUESTIONS
    with interrupts.raised_once():  # KeyboardInterrupt: no node is left behind
        return _show(options, questions)


def _show(options: argparse.Namespace, questions: Sequence[tuple[str, str]]) -> int:
    try:
        answers = run(options.bag or _demo_bag(), options.out, questions, options.model)
        sheet = options.out / "contact_sheet.png"
        _write_picture(sheet, contact_sheet(answers))
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return interrupts.INTERRUPTED
    except (ProcessError, StartError, OSError) as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    print(f"\n{table(answers)}\n")
    pictures = f"{answers[0].path} to {answers[-1].path}" if len(answers) > 1 else str(answers[0].path)
    print(f"pictures: {pictures}\nall in one: {sheet}")
    return 0


def _demo_bag() -> Path:
    try:
        return find_demo()
    except FileNotFoundError as error:
        raise ProcessError(f"{error}: name another one with --bag and --ask") from error


def _stamp(message: Segmentation | Image) -> tuple[int, int]:
    return message.header.stamp.sec, message.header.stamp.nanosec


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:48].strip("-") or "instruction"


def _write_picture(path: Path, rgb: np.ndarray) -> None:
    if not cv2.imwrite(str(path), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)):
        raise OSError(f"{path} could not be written; is there space, and may you write there?")


if __name__ == "__main__":
    raise SystemExit(main())
