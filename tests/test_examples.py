"""Every example instruction in the documentation is answered right about the demo recording."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from rosbags.highlevel import AnyReader

from lens_ros.inputs import as_rgb
from lens_ros.lens import Lens

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "README.md", "docs/start/robot_engineer.md", "docs/start/ml_engineer.md", "docs/guides/client.md",
    "docs/guides/node.md", "docs/guides/robot_installation.md", "docs/guides/engines.md",
    "docs/guides/training.md", "examples/segment_folder.py", "examples/ask_the_robot.py", "demo/README.md",
    "config/perception.yaml", "config/camera.yaml", "foxglove/lens.json", "Makefile",
    "launch/demo.launch.py", "launch/perception.launch.py", "lens_ros/commands/segment.py",
    "lens_ros/commands/quantize.py", "lens_ros/client/given.py", "lens_ros/commands/demo.py",
)  # fmt: skip
# What is right, by demo/scene.json. A new example needs a line here.
RIGHT = {
    "all the mugs": ["blue mug", "white mug"],
    "pick up the red bottle": ["red bottle"],
    "something to clean the table with": ["pink sponge"],
    "the blue mug": ["blue mug"],
    "the bowl": ["yellow bowl"],
    "the bowl to the right of the white mug": ["yellow bowl"],
    "the can to the right of the white mug": ["purple can"],
    "the laptop": [],
    "the largest mug": ["blue mug"],
    "the leftmost mug": ["white mug"],
    "the mug that is not white": ["blue mug"],
    "the red bottle": ["red bottle"],
    "the yellow bowl": ["yellow bowl"],
    "the yellow thing that is not a bowl": ["yellow banana"],
}
QUOTED = re.compile(r"""\\?["']((?:the|something|pick up|all the) (?!demo)[a-z ]+)\\?["']""")
PUBLISHED = re.compile(r"""[{"]data: ([a-z ]+)["}]""")


def examples(page: str) -> set[str]:
    """Return the instructions of a page, without those to models that do not ship."""
    text = " ".join((ROOT / page).read_text().split("\n"))
    text = re.sub(r"lens segment \S+ \"[^\"]*\" --model \S+", "", re.sub(r" +", " ", text))
    return {match.group(1) for pattern in (QUOTED, PUBLISHED) for match in pattern.finditer(text)}


@pytest.fixture(scope="module")
def lens() -> Lens:
    return Lens.from_pretrained("lens-nano")


@pytest.fixture(scope="module")
def answers(lens: Lens, demo_image: np.ndarray) -> dict[str, list[str]]:
    """Return the objects found in the demo's first picture, by instruction."""
    return accepted(lens, demo_image, list(RIGHT))


@pytest.fixture(scope="module")
def views() -> list[np.ndarray]:
    """Return four pictures spread over the recording."""
    with AnyReader([ROOT / "demo" / "tabletop"]) as bag:
        color = [c for c in bag.connections if c.topic == "/camera/color/image_raw/compressed"]
        shots = list(bag.messages(connections=color))[::60]
        found = [bag.deserialize(raw, connection.msgtype).data for connection, _, raw in shots]
    return [as_rgb(PIL.Image.open(io.BytesIO(bytes(data)))) for data in found]


def accepted(lens: Lens, rgb: np.ndarray, texts: list[str]) -> dict[str, list[str]]:
    answers = lens.segment_all(rgb, texts)
    return {a.instruction: sorted(i.label for i in a.instances if not i.rejected) for a in answers}


def test_the_right_answers_are_those_of_the_scene():
    scene = [
        f"{o['color']} {o['category']}" for o in json.loads((ROOT / "demo/scene.json").read_text())["objects"]
    ]
    for text, labels in RIGHT.items():
        assert set(labels) <= set(scene)
        named = [label for label in scene if label in text]
        assert not named or "white mug" in text or labels == named, text
    assert not any("laptop" in label for label in scene)


@pytest.mark.parametrize("page", PAGES)
def test_every_example_of_a_page_is_answered_right(page, answers):
    texts = examples(page)
    assert texts <= set(RIGHT), f"{page}: say in RIGHT what is right, by demo/scene.json"
    assert {text: answers[text] for text in texts} == {text: RIGHT[text] for text in texts}


def test_the_pages_for_beginners_have_examples():
    for page in ("README.md", "docs/guides/client.md", "launch/demo.launch.py", "foxglove/lens.json"):
        assert examples(page), page


def test_examples_for_the_demo_are_answered_right_wherever_its_camera_looks(lens, views):
    texts = sorted(examples("launch/demo.launch.py"))
    assert len(views) == 4 and len(texts) == 2
    for rgb in views:
        assert accepted(lens, rgb, texts) == {text: RIGHT[text] for text in texts}


def test_the_answer_that_the_readme_quotes_is_the_answer(lens, demo_image):
    text = (ROOT / "README.md").read_text()
    instruction = re.search(r'answer = lens\.segment\("photo\.jpg", "([^"]+)"', text)
    quoted = re.search(r'answer\.reasoning +# "([^"]+)"', text)
    assert instruction is not None and quoted is not None
    without_places = lambda said: re.sub(r"\d+", "N", said)  # noqa: E731 - another machine may round otherwise
    answer = lens.segment(demo_image, instruction.group(1))
    assert without_places(answer.reasoning) == without_places(quoted.group(1))
