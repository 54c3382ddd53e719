"""Evaluation program: its measurements and refusals."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from lens_ros.lens import Instance, Lens
from lens_ros.model.checkpoint import save_model
from lens_ros.segmentation import Segmentation
from lens_ros.simulation.catalog import HELD_OUT_PAIRS
from lens_ros.simulation.expressions import SINGLE_KINDS, UNSEEN_KINDS, Expression
from lens_ros.simulation.scene import Frame, SceneObject
from training.data.questions import SPLITS, Question, Split, tabletop_questions
from training.evaluate import main, score
from training.nano import build_nano


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    folder = tmp_path_factory.mktemp("untrained")
    save_model(*build_nano(seed=0), folder, dtype=torch.float16)
    (folder / "training.json").write_text(json.dumps({"rendered_seeds": [1, 2]}))
    return folder


@pytest.fixture(scope="module")
def lens(untrained: Path) -> Lens:
    return Lens.from_pretrained(untrained)


def item(index: int, box: tuple[int, int, int, int]) -> SceneObject:
    area = (box[2] - box[0]) * (box[3] - box[1])
    return SceneObject(index, "mug", "red", 0.1, (0.0, 0.0, 0.0), 0.0, box, area, 1.0, 0.0, 0.8, 0.9)


def question() -> Question:
    objects = (item(1, (0, 0, 56, 56)), item(2, (112, 112, 168, 224)))
    instances = np.zeros((224, 224), np.uint8)
    for o in objects:
        instances[o.box[1] : o.box[3], o.box[0] : o.box[2]] = o.index
    rgb, no_depth = np.zeros((224, 224, 3), np.uint8), np.zeros((0, 0))
    frame = Frame(rgb, no_depth, instances, np.eye(3), np.eye(4), objects)
    return Question(frame, Expression("attribute", "the red mug", "", "", (2,)))


def answer(box: tuple[int, int, int, int], mask: np.ndarray, rejected: str = "") -> Segmentation:
    said = f'<think> x </think> <answer> [{{"bbox_2d":{list(box)},"label":" red mug "}}] </answer>'
    found = Instance(mask, (0.0, 0.0, 1.0, 1.0), 0.9, "red mug", 1.0, rejected)
    accepted = mask if not rejected else np.zeros_like(mask)
    return Segmentation("the red mug", (found,), accepted, "x", said, True, rejected, 0, 0, 0, 9, "m")


def test_score_by_hand(lens: Lens) -> None:
    asked = question()
    mask = np.zeros((224, 224), bool)
    mask[112:168, 112:168] = True  # the upper half of the target
    result = score(lens, asked, answer((112, 112, 168, 224), mask), 0.5)
    assert (result.intersection, result.union) == (56 * 56, 56 * 112)
    assert result.right_object and result.box_iou == pytest.approx(1)
    assert result.accepted and result.seconds == 0.5


def test_the_wrong_object_is_wrong_whatever_the_mask(lens: Lens) -> None:
    asked = question()
    result = score(lens, asked, answer((0, 0, 56, 56), asked.frame.instances == 2), 0.5)
    assert not result.right_object and result.box_iou == 0
    assert result.intersection == result.union


def test_a_rejected_mask_counts_for_iou_but_not_as_accepted(lens: Lens) -> None:
    asked = question()
    result = score(lens, asked, answer((0, 0, 56, 56), asked.frame.instances == 2, "they disagree"), 0.5)
    assert not result.accepted and result.iou == 1


def several(*boxes: tuple[int, int, int, int]) -> Segmentation:
    found = [{"bbox_2d": list(box), "label": "red mug"} for box in boxes]
    said = f"<think>x</think><answer>{json.dumps(found)}</answer>"
    mask = np.zeros((224, 224), bool)
    for x1, y1, x2, y2 in boxes:
        mask[y1:y2, x1:x2] = True
    instances = (Instance(mask, (0.0, 0.0, 1.0, 1.0), 0.9, "red mug", 1.0),) if boxes else ()
    return Segmentation("the red mugs", instances, mask, "x", said, True, "", 0, 0, 0, 9, "m")


def about(kind: str, *targets: int) -> Question:
    asked = question()
    return Question(asked.frame, Expression(kind, "the red mugs", "", "", targets))


FIRST, SECOND = (0, 0, 56, 56), (112, 112, 168, 224)


@pytest.mark.parametrize(
    ("boxes", "right", "iou"),
    [
        ((FIRST, SECOND), True, 1.0),
        ((SECOND, FIRST), True, 1.0),
        ((FIRST,), False, 1 / 3),
        ((FIRST, FIRST), False, 1 / 3),
        ((FIRST, SECOND, (180, 0, 200, 20)), False, None),
        ((), False, 0.0),
    ],
)
def test_all_of_is_right_where_boxes_and_targets_match(
    lens: Lens, boxes: tuple[tuple[int, int, int, int], ...], right: bool, iou: float | None
) -> None:
    result = score(lens, about("all_of", 1, 2), several(*boxes), 0.5)
    assert result.right_object is right and (result.box_iou > 0.5) is right
    assert iou is None or result.iou == pytest.approx(iou)
    assert not result.nothing_there and result.nothing_said is (not boxes)


def test_the_right_answer_to_what_is_not_there_is_nothing(lens: Lens) -> None:
    right = score(lens, about("none"), several(), 0.5)
    assert right.nothing_there and right.nothing_said and right.right_object and right.iou == 1
    wrong = score(lens, about("none"), several(FIRST), 0.5)
    assert wrong.nothing_there and not wrong.nothing_said and not wrong.right_object and wrong.iou == 0


def test_nothing_readable_is_not_the_answer_nothing(lens: Lens) -> None:
    babble = dataclasses.replace(several(), answer="<think>x</think><answer>well</answer>")
    assert not score(lens, about("none"), babble, 0.5).nothing_said


@pytest.mark.parametrize("seed", [1, 2])
def test_seeds_of_training_are_refused(
    untrained: Path, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--model", str(untrained), "--seed", str(seed)]) == 2
    assert f"seed {seed} was rendered while this model was trained" in capsys.readouterr().err


@pytest.mark.parametrize("bad", [("--scenes", "0"), ("--expressions", "0"), ("--threads", "0")])
def test_arguments_that_make_no_sense_are_named(
    bad: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--seed", "9", *bad])
    assert stopped.value.code == 2
    assert f"{bad[0]}" in capsys.readouterr().err


def test_a_model_without_a_record_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", str(tmp_path), "--seed", "9"]) == 2
    assert "names the seeds" in capsys.readouterr().err


def test_writes_all_numbers(opengl: None, untrained: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "numbers.json"
    arguments = ["--model", str(untrained), "--seed", "31", "--scenes", "2", "--expressions", "3"]
    arguments += ["--threads", "1"]
    sheet, page = tmp_path / "sheet.png", tmp_path / "pages" / "report.html"
    assert main([*arguments, "--json", str(out), "--sheet", str(sheet), "--html", str(page)]) == 0
    assert page.read_text().count("data:image/jpeg;base64,") == 3
    assert cv2.imread(str(sheet)).shape[1] > 1000
    result = json.loads(out.read_text())
    assert result["n"] == 3 and result["seed"] == 31
    assert {"pr50", "pr60", "pr70", "pr80", "pr90", "accepted_rate"} <= result.keys()
    assert {"ciou", "giou", "box_acc50", "right_object", "format_rate", "median_seconds"} <= result.keys()
    assert sum(kind["n"] for kind in result["by_kind"].values()) == 3
    assert all({"ciou", "right_object", "format_rate"} <= kind.keys() for kind in result["by_kind"].values())


@pytest.mark.parametrize("split", ["all_of", "none"])
def test_each_split_asks_its_own_questions(opengl: None, split: str) -> None:
    asked = [q.expression for q in tabletop_questions(43, scenes=4, expressions=12, split=split)]
    kinds = [expression.kind for expression in asked]
    assert kinds.count(split) == (12 if split == "all_of" else 6)


def asked_objects(questions: list[Question]) -> list[SceneObject]:
    return [next(o for o in q.frame.objects if (o.index,) == q.expression.targets) for q in questions]


def test_unseen_pairs_are_all_that_is_asked_for(opengl: None) -> None:
    asked = list(tabletop_questions(43, scenes=6, expressions=18, split="unseen_pairs"))
    pairs = {(o.category, o.color) for o in asked_objects(asked)}
    assert len(asked) == 18 and pairs <= HELD_OUT_PAIRS and len(pairs) >= 3
    assert len({q.expression.kind for q in asked}) >= 4


def test_unseen_phrasings_take_turns(opengl: None) -> None:
    asked = list(tabletop_questions(43, scenes=6, expressions=24, split="unseen_phrasing"))
    kinds = {q.expression.kind for q in asked}
    assert kinds <= {*UNSEEN_KINDS} and len(kinds) >= 6
    assert not {(o.category, o.color) for q in asked for o in q.frame.objects} & HELD_OUT_PAIRS


def test_crowded_tables_hold_ten_objects_or_more(opengl: None) -> None:
    asked = list(tabletop_questions(43, scenes=5, expressions=5, split="crowded"))
    assert len(asked) == 5 and all(10 <= len(q.frame.objects) <= 13 for q in asked)
    assert {q.expression.kind for q in asked} <= {*SINGLE_KINDS}


def test_unseen_textures_ask_the_questions_of_in_distribution(opengl: None) -> None:
    usual, other = (
        list(tabletop_questions(43, scenes=3, expressions=6, split=split))
        for split in ("in_distribution", "unseen_textures")
    )
    assert [q.expression for q in usual] == [q.expression for q in other]
    assert all(not np.array_equal(a.frame.rgb, b.frame.rgb) for a, b in zip(usual, other, strict=True))


@pytest.mark.parametrize("split", SPLITS)
def test_questions_of_every_split_are_a_pure_function(opengl: None, split: Split) -> None:
    first, again = (list(tabletop_questions(44, scenes=2, expressions=3, split=split)) for _ in range(2))
    assert [q.expression for q in first] == [q.expression for q in again]
    assert all(np.array_equal(a.frame.rgb, b.frame.rgb) for a, b in zip(first, again, strict=True))


def test_questions_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown split 'all'.*crowded"):
        tabletop_questions(1, 1, 1, "all")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one scene"):
        tabletop_questions(1, 0, 1)


def test_the_split_of_what_is_not_there_reports_precision_and_recall(
    opengl: None, untrained: Path, tmp_path: Path
) -> None:
    out = tmp_path / "numbers.json"
    arguments = ["--model", str(untrained), "--seed", "31", "--scenes", "1", "--expressions", "2"]
    assert main([*arguments, "--split", "none", "--fast", "--threads", "1", "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    assert result["split"] == "none" and result["fast"] is True
    assert result["nothing"]["questions"] == 1


def test_questions_are_a_pure_function_and_spread_over_scenes(opengl: None) -> None:
    first, second = (list(tabletop_questions(41, scenes=4, expressions=10)) for _ in range(2))
    assert [q.expression for q in first] == [q.expression for q in second]
    assert all(np.array_equal(a.frame.rgb, b.frame.rgb) for a, b in zip(first, second, strict=True))
    pictures = [q.frame.rgb.tobytes() for q in first]
    assert len(set(pictures)) == 4
    assert len(first) == 10
