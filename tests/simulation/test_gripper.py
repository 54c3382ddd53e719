"""Physics judges grasps: what is planned from true masks is lifted, and a misplaced mask is not."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from lens_ros import cli
from lens_ros.codes import Code, code_of
from lens_ros.geometry.gripper import Gripper
from lens_ros.simulation.gripper.bench import contact_sheet, summary
from lens_ros.simulation.gripper.solids import pieces
from lens_ros.simulation.gripper.trial import Trial, run_trial
from lens_ros.simulation.gripper.world import GripperWorld
from lens_ros.simulation.meshes import make_shape
from lens_ros.simulation.renderer import TabletopSimulator
from lens_ros.simulation.scene import Placement

mujoco = pytest.importorskip("mujoco")
SEED, INDICES = 5, range(8)


def trials(simulator: TabletopSimulator, masks: str) -> list[Trial]:
    found = [run_trial(simulator, SEED, index, masks) for index in INDICES]
    return [trial for trial in found if trial is not None]


def test_true_masks_lift_and_shifted_ones_do_not(simulator: TabletopSimulator) -> None:
    true, shifted = trials(simulator, "truth"), trials(simulator, "shifted")
    assert len(true) >= 5 and len(true) == len(shifted)
    assert summary(true)["lift_rate"] >= 0.75
    assert summary(shifted)["lift_rate"] <= 0.25
    assert summary(true)["n"] == sum(each["n"] for each in summary(true)["by_category"].values())
    assert contact_sheet(true + shifted).std() > 10


def test_a_trial_is_a_function_of_its_seed(simulator: TabletopSimulator) -> None:
    first, second = (run_trial(simulator, SEED, 3, "truth") for _ in range(2))
    assert first is not None and second is not None and first.grasp is not None and second.grasp is not None
    assert first.result == second.result
    np.testing.assert_array_equal(first.grasp.pose, second.grasp.pose)


def test_an_empty_mask_is_abstained_from(simulator: TabletopSimulator) -> None:
    trial = next(
        trial
        for index in INDICES
        if (trial := run_trial(simulator, SEED, index, lambda rgb, _: np.zeros(rgb.shape[:2], bool)))
    )
    assert trial.result == "abstained" and code_of(trial.reason) is Code.EMPTY_MASK


@pytest.mark.parametrize("category", ["mug", "cup", "bowl", "plate"])
def test_vessels_are_hollow(category: str) -> None:
    """No piece reaches into the inside, and together they reach as far as the mesh."""
    shape = make_shape(category, np.random.default_rng(3))
    parts = pieces(category, shape)
    axis = shape.parts[0].surface.vertices[:, :2]
    axis = (axis.min(0) + axis.max(0)) / 2
    top = max(part[:, 2].max() for part in parts)
    assert top == pytest.approx(shape.parts[0].surface.vertices[:, 2].max(), abs=0.004)
    for part in parts:
        if part[:, 2].max() > 0.9 * top:
            assert np.linalg.norm(part[:, :2] - axis, axis=1).min() > 0.015


def test_closing_on_nothing_lifts_nothing() -> None:
    shape = make_shape("cube", np.random.default_rng(0))
    cube = Placement(0, "cube", "red", (1, 0, 0), (0.0, 0.0, 0.0), 0.3)
    pose = np.diag([1.0, -1.0, -1.0, 1.0])
    pose[2, 3] = 0.01
    risen = GripperWorld(mujoco, [cube], [shape], Gripper()).execute(pose, 0.1, 0.08)
    assert risen[0] == pytest.approx(0.2, abs=0.02)
    pose[0, 3] = 0.2
    risen = GripperWorld(mujoco, [cube], [shape], Gripper()).execute(pose, 0.1, 0.08)
    assert abs(risen[0]) < 0.01


def test_the_command_reports_rates_and_writes_pictures(
    simulator: TabletopSimulator, tmp_path, capsys
) -> None:
    numbers, picture = tmp_path / "grasps.json", tmp_path / "grasps.png"
    options = ["--scenes", "2", "--seed", str(SEED), "--json", str(numbers), "--picture", str(picture)]
    assert cli.main(["grasp-bench", *options]) == 0
    rates = json.loads(numbers.read_text())
    assert rates["n"] == 2 and {"lift_rate", "right_object", "wrong_object", "abstained"} <= rates.keys()
    assert "lift_rate" in capsys.readouterr().out and cv2.imread(str(picture)) is not None
    assert cli.main(["grasp-bench", "--scenes", "0"]) == 2
