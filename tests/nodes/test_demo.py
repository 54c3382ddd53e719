"""Output of the demo, printed and written; test_over_dds.py tests that it runs."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from geometry_msgs.msg import Point, Pose
from sensor_msgs.msg import RegionOfInterest

from lens_ros.commands import demo
from lens_ros.lens import Lens
from lens_ros.msg import Instance, Segmentation
from lens_ros.nodes.camera.sources import open_source
from lens_ros.nodes.perception.camera_images import decode
from lens_ros.resources import find_demo

ROOT = Path(__file__).resolve().parents[2]
GROWING = (
    "i look",
    "i look for mug.",
    "i look for mug. red mug (10 20);",
    "i look for mug. red mug (10 20); so the red mug",
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def grow(out: io.StringIO) -> str:
    printer = demo.Printer(out)
    printer.begin("the mug")
    for text in GROWING:
        printer.grow(text, finished=False)
    printer.grow(GROWING[-1], finished=True)
    return out.getvalue()


def test_a_terminal_shows_every_token_in_place():
    assert grow(Terminal()).endswith("i look for mug. red mug (10 20); so the red mug\n")


def test_a_pipe_gets_whole_clauses():
    assert grow(io.StringIO()).splitlines() == [
        "",
        "> the mug",
        "  i look for mug.",
        "  red mug (10 20);",
        "  so the red mug",
    ]


def answer(instruction: str, *instances: Instance, reason: str = "") -> demo.Shown:
    segmentation = Segmentation(instruction=instruction, instances=instances, reason=reason, reason_ms=250.0)
    return demo.Shown("attribute", instruction, segmentation, np.zeros((48, 64, 3), np.uint8), Path("1.png"))


def test_the_table_has_a_line_for_each_answer_and_no_rejected_object():
    box = RegionOfInterest(x_offset=10, y_offset=20, width=30, height=5)
    place = Pose(position=Point(x=0.1, y=-0.204, z=0.75))
    answers = [
        answer("the red mug", Instance(label="red mug", score=0.91, box=box), Instance(rejected="no")),
        answer("the blue mug", Instance(label="blue mug", score=0.9, box=box, has_pose=True, pose=place)),
        answer("the unicorn", reason="nothing fits"),
    ]
    lines = demo.table(answers).splitlines()
    assert [line.split() for line in lines] == [
        ["instruction", "found", "box", "place", "in", "m", "score", "ms"],
        ["the", "red", "mug", "red", "mug", "10,20", "40,25", "-", "0.91", "250"],
        "the blue mug blue mug 10,20 40,25 0.10 -0.20 0.75 0.90 250".split(),
        ["the", "unicorn", "nothing:", "nothing", "fits", "250"],
    ]
    assert demo.contact_sheet(answers).shape[2] == 3


def test_the_questions_are_of_different_kinds_about_what_is_in_the_scene():
    scene = json.loads((ROOT / "demo" / "scene.json").read_text())
    colors = {entry["color"] for entry in scene["objects"]}
    assert len({kind for kind, _ in demo.QUESTIONS}) == len(demo.QUESTIONS) >= 5
    known = {"red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "gray"}
    for _, question in demo.QUESTIONS:
        assert set(question.split()) & known <= colors


def test_every_question_is_answered_right_and_accepted_wherever_the_camera_looks():
    expected = {
        "pick up the red bottle": ["red bottle"],
        "the leftmost mug": ["white mug"],
        "the largest mug": ["blue mug"],
        "the can to the right of the white mug": ["purple can"],
        "the yellow thing that is not a bowl": ["yellow banana"],
        "something to clean the table with": ["pink sponge"],
        "the mug that is not white": ["blue mug"],
        "the laptop": [],
    }
    lens = Lens.from_pretrained("lens-nano")
    questions = [question for _, question in demo.QUESTIONS]
    shots = [s.content for s in open_source(find_demo()).shots() if s.stream == "color"]
    for number in range(0, len(shots), 60):
        for answer in lens.segment_all(decode(shots[number]), questions):
            found = [i.label for i in answer.instances if not i.rejected]
            assert found == expected[answer.instruction], (number, answer.reason)


def test_file_names_are_plain():
    assert demo._slug("Hand me the red mug, please!") == "hand-me-the-red-mug-please"
    assert demo._slug("das blaue Häuschen " * 9).isascii()
    assert demo._slug("???") == "instruction"


def test_another_recording_needs_a_question(capsys):
    with pytest.raises(SystemExit):
        demo.main(["--bag", "somewhere"])
    assert "say what to look for with --ask" in capsys.readouterr().err
