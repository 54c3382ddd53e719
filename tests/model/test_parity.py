"""Parity with the paper's reference implementation, by golden outputs of a tiny checkpoint in its format.

Tolerances are the checker's: absolute, a few times the reference's own noise between attention kernels.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from lens_ros.model.network import LensModel, View
from lens_ros.model.released import load_released

GOLDEN = Path(__file__).parents[1] / "fixtures" / "parity"
CASES = ("a_single", "b_leftpad", "c_eval")
VISION_END, PAD = 1003, 1000  # ids of the tiny checkpoint


@pytest.fixture(scope="module")
def released(released_folder: Path) -> LensModel:
    return load_released(released_folder)


def test_every_golden_number_is_reproduced(tmp_path: Path) -> None:
    report = tmp_path / "parity.json"
    run = subprocess.run(
        [sys.executable, GOLDEN / "parity_check.py", "tests.parity_adapter:load", "--json", report],
        cwd=Path(__file__).parents[2], capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    compared = {row["what"] for row in json.loads(report.read_text())}
    assert compared == {
        "prompt", "low_res", "position_ids", "visual", "query_hidden", "connector", "iou4", "logps",
        "image_embed", "upsampled", "greedy_ids",
    }  # fmt: skip


def view_of(released: LensModel, call: dict[str, torch.Tensor], row: int, prefix: torch.Tensor) -> View:
    grids = call["image_grid_thw"]
    patches = call["pixel_values"].split(grids.prod(1).tolist())[row]
    return View(
        released,
        prefix,
        grid=(int(grids[row, 1]) // 2, int(grids[row, 2]) // 2),
        see=lambda: released.reasoner.model.visual(patches, grid_thw=grids[row : row + 1]).pooler_output,
        encode=lambda: released.segmenter.encode(call["sam_images"][row : row + 1]),
    )


@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_the_second_cache_gives_the_golden_prompt(
    checker: ModuleType, released: LensModel, case: str
) -> None:
    """The image prefix is read once with plain positions, then the rest with the queries, not recomputed."""
    call, expected, _ = checker.load_case(GOLDEN, case)
    for row, (ids, mask) in enumerate(zip(call["input_ids"], call["attention_mask"], strict=True)):
        tokens = ids[mask.bool()]
        split = int((tokens == VISION_END).nonzero()[0]) + 1
        reading = view_of(released, call, row, tokens[:split]).reading("sequential").fork(1)
        rest = tokens[None, split:]
        prompt = released.context_module()(released.read_queries(reading, rest, torch.ones_like(rest)))
        torch.testing.assert_close(prompt[0], expected["prompt"][row].view(1, -1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("row", [0, 1])
def test_a_generated_answer_gives_the_golden_mask(checker: ModuleType, released: LensModel, row: int) -> None:
    """The evaluation flow runs in our own way: one row ends early, the other reaches the limit."""
    call, expected, _ = checker.load_case(GOLDEN, "c_eval")
    prompt = expected["prompt_ids"][row][expected["prompt_mask"][row].bool()]
    split = int((prompt == VISION_END).nonzero()[0]) + 1
    view = view_of(released, call, row, prompt[:split])
    end, limit = int(expected["greedy_eos"]), int(expected["greedy_max_new_tokens"])
    [thought] = released.reason(view, [prompt[split:]], end_token=end, pad_token=PAD, max_new_tokens=limit)
    written = call["input_ids"][row, -limit:].tolist()
    assert thought.token_ids == [token for token in written if token not in (end, PAD)]
    assert thought.prompt is not None
    torch.testing.assert_close(thought.prompt, expected["prompt"][row].view(1, -1), atol=1e-4, rtol=0)
    with torch.inference_mode():
        logits, _ = released.decode(view.features, thought.prompt[None])
    torch.testing.assert_close(logits[0], expected["low_res"][row], atol=5e-4, rtol=0)
