"""Run the examples of `examples/` that need no robot, and those in the docstrings of the public API.

`grpo_by_hand.py` has its own test in tests/training; `ask_the_robot.py` is run in
tests/nodes/test_clients_over_dds.py.
"""

from __future__ import annotations

import doctest
import json
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest

import lens_ros.lens
import lens_ros.segmentation
from lens_ros.lens import Lens

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(monkeypatch: pytest.MonkeyPatch, program: str, *arguments: str) -> int:
    """Run a program in this process; return its exit status."""
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXAMPLES / program), run_name="__main__")
    return int(ended.value.code or 0)


@pytest.fixture
def pictures(tmp_path: Path, demo_image: np.ndarray) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    PIL.Image.fromarray(demo_image).save(folder / "table.png")
    return folder


def test_segment_folder_writes_masks_overlays_and_answers(monkeypatch, pictures, tmp_path, demo_image):
    out = tmp_path / "out"
    asked = ["the red bottle", "the laptop"]
    assert run(monkeypatch, "segment_folder.py", str(pictures), *asked, "--out", str(out)) == 0
    bottle, laptop = (json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines())
    assert (bottle["picture"], bottle["instruction"]) == ("table.png", "the red bottle")
    assert [found["label"] for found in bottle["objects"]] == ["red bottle"] and bottle["reason"] == ""
    assert laptop["objects"] == [] and "nothing" in laptop["reason"]
    expected = Lens.from_pretrained("lens-nano").segment(demo_image, "the red bottle").mask
    mask = cv2.imread(str(out / "table.png-0-mask.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(mask, expected.astype(np.uint8) * 255)
    assert not cv2.imread(str(out / "table.png-1-mask.png"), cv2.IMREAD_UNCHANGED).any()
    assert cv2.imread(str(out / "table.png-0-overlay.jpg")).shape[1] >= demo_image.shape[1]


def test_segment_folder_names_and_skips_what_is_no_picture(monkeypatch, capsys, pictures, tmp_path):
    (pictures / "notes.txt").write_text("no picture")
    out = tmp_path / "out"
    assert run(monkeypatch, "segment_folder.py", str(pictures), "the red bottle", "--out", str(out)) == 1
    said = capsys.readouterr()
    assert "notes.txt" in said.err and "1 of 2 pictures" in said.out
    assert len((out / "answers.jsonl").read_text().splitlines()) == 1


def test_segment_folder_refuses_what_is_no_folder(monkeypatch, capsys, tmp_path):
    missing = tmp_path / "missing"
    assert run(monkeypatch, "segment_folder.py", str(missing), "the red bottle") == 2
    assert f"{missing} is no folder" in capsys.readouterr().err


def test_examples_in_docstrings(demo_image):
    names = {"lens": Lens.from_pretrained("lens-nano"), "picture": demo_image}
    finder, runner = doctest.DocTestFinder(recurse=True), doctest.DocTestRunner()
    found = [
        each
        for module in (lens_ros.lens, lens_ros.segmentation)
        for each in finder.find(module, extraglobs=names)
        if each.examples
    ]
    assert {each.name.split(".", 2)[2] for each in found} >= {
        "Lens.look", "Lens.segment", "Segmentation", "Segmentation.to_supervision",
    }  # fmt: skip
    for each in found:
        runner.run(each)
    assert runner.summarize(verbose=False).failed == 0
