"""The example that writes a GRPO step out by hand computes what the real program computes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lens_ros.lens import Lens
from lens_ros.model.generation import Sampling
from training.config import ReinforceConfig
from training.data.examples import taught
from training.reinforce import Reinforce, _Kept
from training.rollout import roll_out

EXAMPLES = Path(__file__).parents[2] / "examples"
GROUP = 3


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import grpo_by_hand

    yield grpo_by_hand
    del sys.modules["grpo_by_hand"]


def gradients(loss: torch.Tensor, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the gradient of each parameter that the loss reaches, and clear them."""
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_the_example_is_short() -> None:
    assert len((EXAMPLES / "grpo_by_hand.py").read_text().splitlines()) <= 150


def test_loss_and_gradients_are_the_real_ones(by_hand, shard_folder: Path) -> None:
    config = ReinforceConfig(
        data=str(shard_folder), out="", data_seed=5, scenes=16, start_from="lens-nano", steps=1, warmup=0,
        cooldown=0, processes=1, bf16=False, prompts=1, group=GROUP, beta=0.0, validation_expressions=0,
    )  # fmt: skip
    task = Reinforce(config)
    for example in task._examples.draw(np.random.default_rng(0), 40):
        if not (example.think and len(example.boxes) == 1):
            continue
        completions = roll_out(
            task.policy, taught([example], task.model, task.tokenizer), task.tokenizer, group=GROUP,
            sampling=Sampling(temperature=1.5, seed=4), max_new_tokens=60,
        )  # fmt: skip
        form, box = task._sentences([example], completions)
        if form.std() + box.std() > 0.1:  # a group of equal answers teaches nothing
            break
    else:
        pytest.fail("no example of the shard has answers that differ")
    judged = task.policy(completions)
    expected, metrics = task._objective(_Kept([example], completions, form, box), judged, None)
    wanted = gradients(expected, task.model)

    lens = Lens(task.model, task.tokenizer)
    plain = by_hand.task_of(
        lens, example.rgb, example.instruction, example.boxes[0], example.mask.astype(bool)
    )
    assert torch.equal(plain.prompt_P, completions.prompt_ids[0][completions.prompt_mask[0].bool()])
    rows = zip(completions.completion_ids[0], completions.completion_mask[0].bool(), strict=True)
    loss, rewards = by_hand.grpo_loss(lens, plain, [ids[seen] for ids, seen in rows])
    assert np.std(rewards) > 0
    assert np.mean(rewards) == pytest.approx(float(metrics["reward"]), abs=1e-5)
    torch.testing.assert_close(loss.detach(), expected.detach(), atol=1e-5, rtol=1e-4)
    found = gradients(loss, task.model)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=2e-5, rtol=2e-3, msg=name)


def test_sampling_ends_with_the_end_token(by_hand, demo_image: np.ndarray) -> None:
    lens = Lens.from_pretrained("lens-nano", backend="torch")
    mask = np.zeros(demo_image.shape[:2], bool)
    task = by_hand.task_of(lens, demo_image, "the red bottle", (0.0, 0.0, 0.1, 0.1), mask)
    answer = by_hand.sample(
        lens.model, task, lens.tokenizer.eos_token_id, 12, torch.Generator().manual_seed(0)
    )
    assert 1 <= len(answer) <= 12
    assert lens.tokenizer.eos_token_id not in answer[:-1].tolist()
