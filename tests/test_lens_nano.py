"""Shipped weights: their answers and their origin."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from lens_ros.evaluation.metrics import summarize, summarize_nothing
from lens_ros.lens import Lens
from lens_ros.model.checkpoint import find_model
from lens_ros.segmentation import Segmentation
from training.config import ReinforceConfig, SuperviseConfig, load_config, plain
from training.data.questions import tabletop_questions
from training.evaluate import ask, evaluate

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = {
    "nano_continue2": ("training.supervise", SuperviseConfig),
    "compare_supervise": ("training.supervise", SuperviseConfig),
    "compare_reinforce": ("training.reinforce", ReinforceConfig),
}


@pytest.fixture(scope="module")
def lens() -> Lens:
    return Lens.from_pretrained("lens-nano")


def demo_objects() -> list[dict]:
    return json.loads((ROOT / "demo" / "scene.json").read_text())["objects"]


def test_finds_the_objects_of_the_demo_by_name(lens: Lens, demo_image: np.ndarray) -> None:
    missed = []
    for item in demo_objects():
        texts: list[str] = []
        name = f"{item['color']} {item['category']}"
        answer = lens.segment(demo_image, f"the {name}", on_text=texts.append)
        assert answer.well_formed
        assert texts[-1] == answer.reasoning
        x1, y1, x2, y2 = item["box"]
        inside = answer.mask[y1:y2, x1:x2].sum()
        right = inside / max(1, answer.mask.sum()) > 0.8 and inside / item["area"] > 0.6
        if not (right and answer.reason == "" and answer.instances[0].label == name):
            missed.append(name)
    assert missed == []


def test_answers_on_scenes_it_has_never_seen(opengl: None, lens: Lens) -> None:
    asked = list(ask(lens, tabletop_questions(777, scenes=30, expressions=75)))
    result = summarize([score for _, _, score in asked])
    assert result["format_rate"] == 100
    assert result["right_object"] >= 78
    assert result["ciou"] >= 65
    assert result["accepted_rate"] >= 90  # by box and mask; their score does not count here
    calibration = lens.model.config.calibration
    assert calibration is not None
    sure = [s.iou >= 0.5 for _, answer, s in asked if s.accepted and scored(answer) >= calibration.threshold]
    assert len(sure) >= 0.45 * len(asked)
    assert np.mean(sure) >= 0.9  # 95 % over many (docs/results/calibration.md); a few dozen scatter
    assert np.mean(sure) >= result["pr50"] / 100


def scored(answer: Segmentation) -> float:
    """Return the score of an answer about one object."""
    return max((instance.score for instance in answer.instances), default=0.0)


def test_tells_what_is_not_there_and_finds_all_of_several(opengl: None, lens: Lens) -> None:
    told = summarize_nothing(evaluate(lens, tabletop_questions(778, scenes=24, expressions=60, split="none")))
    assert told["precision"] is not None and told["precision"] >= 80
    assert told["recall"] is not None and told["recall"] >= 80
    several = summarize(evaluate(lens, tabletop_questions(779, scenes=16, expressions=40, split="all_of")))
    assert several["giou"] >= 62


def test_the_same_words_find_the_same_however_they_are_typed(lens: Lens, demo_image: np.ndarray) -> None:
    seen = lens.look(demo_image)
    for name in ("the red bottle", "the leftmost mug"):
        plain, *others = lens.segment_all(
            seen, [name, f"{name.capitalize()}.", f"{name} ...", f'"{name}"', name.replace(" ", "\u00a0 ")]
        )
        assert plain.mask.any()
        for other in others:
            assert np.array_equal(other.mask, plain.mask), other.instruction
            assert other.instruction != name


def test_what_names_no_object_finds_nothing_beside_what_does(lens: Lens, demo_image: np.ndarray) -> None:
    told: list[int] = []
    answers = lens.segment_all(
        demo_image, ["the table", "the red bottle", "nothing."], on_text=lambda row, text: told.append(row)
    )
    assert [answer.instruction for answer in answers] == ["the table", "the red bottle", "nothing."]
    assert [bool(answer.mask.any()) for answer in answers] == [False, True, False]
    assert set(told) == {1}
    assert "'table' is no object that lens-nano knows" in answers[0].reason
    alone = lens.segment(demo_image, "my hand")
    assert alone.instances == () and alone.well_formed and "'hand' is no object" in alone.reason


def test_words_that_it_has_never_read_do_not_derail_it(lens: Lens, demo_image: np.ndarray) -> None:
    answer = lens.segment(demo_image, "kindly fetch me that gorgeous banana, would you?")
    assert answer.well_formed
    assert answer.instances[0].label.endswith("banana")


def test_the_record_names_the_committed_configurations() -> None:
    record = json.loads((find_model("lens-nano") / "training.json").read_text())
    assert record["program"] == "training.tools.average"
    ran = Counter(name for run in record["averaged"] for name in CONFIGS if is_run_of(run, name))
    assert ran == {"nano_continue2": 1, "compare_supervise": 3, "compare_reinforce": 3}
    assert record["rendered_seeds"] == [1, 2, 3]


def is_run_of(run: dict, name: str) -> bool:
    """Return whether a recorded run followed a committed configuration, with any seed."""
    program, kind = CONFIGS[name]
    committed = plain(load_config(kind, ROOT / "training" / "configs" / f"{name}.yaml", []))
    recorded = {k: v for k, v in run["config"].items() if k not in ("seed", "start_from")}
    return run["program"] == program and all(committed[k] == v for k, v in recorded.items())


def test_the_weights_are_small() -> None:
    assert sum(f.stat().st_size for f in find_model("lens-nano").iterdir()) < 20e6
