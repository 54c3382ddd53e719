"""GRPO on plain tensors, compared with TRL's trainer, which samples, scores and takes steps."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.grpo import (
    completion_mask,
    completion_metrics,
    group_advantages,
    grpo_loss,
    k3_kl,
    reward_metrics,
    token_mean,
)

GROUP, PROMPTS, LONGEST, BETA, EPSILON = 4, 2, 8, 0.04, 0.2
END, PAD, WORDS = 1, 0, 10
WEIGHTS = {"parity_reward": 1.0, "low_reward": 0.5}

needs_trl = pytest.mark.skipif(sys.version_info < (3, 11), reason="TRL needs Python 3.11")


# --- the same as TRL


def parity_reward(prompts: list[str], completion_ids: list[list[int]], **_: object) -> list[float]:
    """Reward odd first tokens; all completions of the first prompt get 0, a group without a spread."""
    pairs = zip(prompts, completion_ids, strict=True)
    return [0.0 if prompt.endswith("w5") else float(ids[0] % 2) for prompt, ids in pairs]


def low_reward(prompts: list[str], completion_ids: list[list[int]], **_: object) -> list[float]:
    pairs = zip(prompts, completion_ids, strict=True)
    return [0.7 if prompt.endswith("w5") else sum(ids) / len(ids) / WORDS for prompt, ids in pairs]


class Recorded:
    """Values that TRL's trainer computed: one entry per generation, one per loss, one per log line."""

    def __init__(self, folder: Path) -> None:
        from datasets import Dataset
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
        from trl import GRPOConfig, GRPOTrainer

        words = {"<pad>": PAD, "<end>": END, **{f"w{i}": i for i in range(2, WORDS)}}
        tokenizer = Tokenizer(models.WordLevel(words, unk_token="w2"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        torch.manual_seed(0)
        config = Qwen2Config(
            vocab_size=WORDS,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            initializer_range=0.3,  # far from uniform, so that log-probabilities differ
            pad_token_id=PAD,
            eos_token_id=END,
            bos_token_id=None,
        )
        Qwen2ForCausalLM(config).save_pretrained(folder / "model")
        generations: list[dict[str, Any]] = []
        losses: list[dict[str, Any]] = []
        self.generations, self.losses = generations, losses

        class Recording(GRPOTrainer):
            def _calculate_rewards(self, *args: Any, **kwargs: Any) -> torch.Tensor:
                self.scores = super()._calculate_rewards(*args, **kwargs)
                return self.scores

            def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
                output = super()._generate_and_score_completions(inputs)
                generations.append({**output, "scores": self.scores.clone()})
                return output

            def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
                self.forward = super()._get_per_token_logps_and_entropies(*args, **kwargs)
                return self.forward

            def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
                loss = super()._compute_loss(model, inputs)
                log_probs, entropies, _ = self.forward
                (gradient,) = torch.autograd.grad(loss, log_probs, retain_graph=True)
                tensors = {k: v.clone() for k, v in inputs.items() if isinstance(v, torch.Tensor)}
                losses.append(
                    {
                        **tensors,
                        "loss": loss.detach(),
                        "log_probs": log_probs.detach().clone(),
                        "entropies": entropies.detach().clone(),
                        "gradient": gradient,
                    }
                )
                return loss

        self.trainer = Recording(
            model=str(folder / "model"),
            processing_class=PreTrainedTokenizerFast(
                tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", unk_token="w2"
            ),
            reward_funcs=[parity_reward, low_reward],
            train_dataset=Dataset.from_list([{"prompt": f"w3 w{5 + i}"} for i in range(PROMPTS)]),
            args=GRPOConfig(
                output_dir=str(folder / "run"),
                per_device_train_batch_size=GROUP * PROMPTS,
                num_generations=GROUP,
                num_iterations=2,  # the second pass over a generation is off-policy
                max_steps=4,
                max_completion_length=LONGEST,
                learning_rate=3e-2,  # so that ratios leave the clipping range and the KL is not 0
                warmup_steps=0,
                lr_scheduler_type="constant",
                loss_type="grpo",
                scale_rewards="group",
                beta=BETA,
                epsilon=EPSILON,
                reward_weights=list(WEIGHTS.values()),
                use_bias_correction_kl=False,  # as LENS
                temperature=1.0,
                generation_kwargs={"suppress_tokens": [PAD]},  # TRL counts a sampled <pad> as an end
                logging_steps=1,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                use_cpu=True,
                bf16=False,
                seed=1,
            ),
        )
        self.trainer.train()
        self.logs = [line for line in self.trainer.state.log_history if "entropy" in line]


@pytest.fixture(scope="module")
def trl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    from accelerate.state import AcceleratorState, GradientState

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TRL calls transformers by names that change in v6
        recorded = Recorded(tmp_path_factory.mktemp("trl"))
    yield recorded
    AcceleratorState._reset_state(reset_partial_state=True)  # these are the process's, not the trainer's
    GradientState._reset_state()


def by_name(scores: torch.Tensor) -> dict[str, torch.Tensor]:
    return dict(zip(WEIGHTS, scores.T, strict=True))


def total_of(scores: torch.Tensor) -> torch.Tensor:
    return scores @ torch.tensor(list(WEIGHTS.values()))


@needs_trl
def test_trl_run_covers_what_matters(trl: Recorded) -> None:
    """Clipping, drift from the reference, ragged lengths and a group without spread do occur in this run."""
    assert len(trl.generations) == 2 and len(trl.losses) == len(trl.logs) == 4
    assert max(line["clip_ratio/low_mean"] for line in trl.logs) > 0
    assert max(line["clip_ratio/high_mean"] for line in trl.logs) > 0
    assert trl.logs[0]["kl"] == pytest.approx(0, abs=1e-5) and trl.logs[-1]["kl"] > 0.01
    assert all("old_per_token_logps" in step for step in trl.losses)
    assert len({int(n) for step in trl.losses for n in step["completion_mask"].sum(1)}) > 2
    assert trl.logs[0]["frac_reward_zero_std"] == 0.5


@needs_trl
def test_advantages_are_trls(trl: Recorded) -> None:
    for generation in trl.generations:
        ours = group_advantages(total_of(generation["scores"]), GROUP)
        torch.testing.assert_close(ours, generation["advantages"])


@needs_trl
def test_masks_are_trls(trl: Recorded) -> None:
    for generation in trl.generations:
        ours = completion_mask(generation["completion_ids"], [END])
        # TRL cuts its completions down to the mask and pads them again, so it sees no token behind the end.
        assert torch.equal(ours & generation["completion_mask"].bool(), ours)
        assert torch.equal(ours.int(), generation["completion_mask"].int())


@needs_trl
def test_loss_gradient_and_metrics_are_trls(trl: Recorded) -> None:
    for step, logged in zip(trl.losses, trl.logs, strict=True):
        mask = step["completion_mask"].bool()
        log_probs = step["log_probs"].requires_grad_()
        loss, metrics = grpo_loss(
            log_probs,
            mask,
            step["advantages"],
            old=step["old_per_token_logps"],
            reference=step["ref_per_token_logps"],
            beta=BETA,
            epsilon=EPSILON,
        )
        (gradient,) = torch.autograd.grad(loss, log_probs)
        torch.testing.assert_close(loss.detach(), step["loss"])
        torch.testing.assert_close(gradient, step["gradient"])
        metrics["entropy"] = token_mean(step["entropies"], mask)
        for name, value in metrics.items():
            assert value.item() == pytest.approx(logged[name], rel=1e-5, abs=1e-6), name


@needs_trl
@pytest.mark.parametrize("off_policy", [False, True])
@pytest.mark.parametrize(("beta", "unbiased_kl"), [(0.0, False), (0.04, False), (0.04, True)])
@pytest.mark.parametrize("kind", ["grpo", "dr_grpo"])
def test_loss_on_any_tensors_is_trls(
    trl: Recorded,
    monkeypatch: pytest.MonkeyPatch,
    kind: Literal["grpo", "dr_grpo"],
    beta: float,
    unbiased_kl: bool,
    off_policy: bool,
) -> None:
    """TRL's own loss gets the log-probabilities of its model from the test."""
    random = torch.Generator().manual_seed(3)
    shape = (GROUP * PROMPTS, LONGEST)
    log_probs, old, reference = (-2 * torch.rand(shape, generator=random) - 0.1 for _ in range(3))
    lengths = torch.randint(1, LONGEST + 1, shape[:1], generator=random)
    mask = torch.arange(LONGEST) < lengths[:, None]
    advantages = torch.randn(shape[0], generator=random)
    inputs = {
        "prompt_ids": torch.full((shape[0], 1), 3),
        "prompt_mask": torch.ones(shape[0], 1, dtype=torch.long),
        "completion_ids": torch.full(shape, 4),
        "completion_mask": mask.long(),
        "advantages": advantages,
        "ref_per_token_logps": reference,
        **({"old_per_token_logps": old} if off_policy else {}),
    }
    theirs, ours = (log_probs.clone().requires_grad_() for _ in range(2))

    def forward(*args: object, **kwargs: object) -> tuple[torch.Tensor, torch.Tensor, None]:
        return theirs, torch.zeros(shape), None

    trainer = trl.trainer
    monkeypatch.setattr(trainer, "loss_type", kind)
    monkeypatch.setattr(trainer, "beta", beta)
    monkeypatch.setattr(trainer.args, "use_bias_correction_kl", unbiased_kl)
    monkeypatch.setattr(trainer, "_get_per_token_logps_and_entropies", forward)
    expected = super(type(trainer), trainer)._compute_loss(trainer.model, inputs)
    loss, _ = grpo_loss(
        ours,
        mask,
        advantages,
        old=old if off_policy else None,
        reference=reference,
        beta=beta,
        unbiased_kl=unbiased_kl,
        epsilon=EPSILON,
        kind=kind,
        max_length=LONGEST,
    )
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, ours)[0], torch.autograd.grad(expected, theirs)[0])


@needs_trl
def test_reward_and_length_metrics_are_trls(trl: Recorded) -> None:
    for generation, logged in zip(trl.generations, trl.logs[::2], strict=True):
        scores = generation["scores"]
        metrics = reward_metrics(by_name(scores), total_of(scores), GROUP)
        metrics |= completion_metrics(generation["completion_ids"], [END])
        assert len(metrics) == 14
        for name, value in metrics.items():
            assert value.item() == pytest.approx(logged[name], rel=1e-5, abs=1e-6), name


# --- by hand, and what must hold for any numbers


def test_advantages_by_hand() -> None:
    rewards = torch.tensor([0.0, 2.0, 1.0, 1.0])
    deviation = math.sqrt(2)  # unbiased: ((0 - 1)^2 + (2 - 1)^2) / (2 - 1)
    expected = [-1 / (deviation + 1e-4), 1 / (deviation + 1e-4), 0, 0]
    assert group_advantages(rewards, 2).tolist() == pytest.approx(expected)
    assert group_advantages(rewards, 2, scale=False).tolist() == [-1, 1, 0, 0]


@pytest.mark.parametrize(("count", "group"), [(4, 1), (4, 3), (4, 8), (4, 0)])
def test_incomplete_groups_are_refused(count: int, group: int) -> None:
    with pytest.raises(ValueError, match="whole groups"):
        group_advantages(torch.zeros(count), group)
    with pytest.raises(ValueError, match="whole groups"):
        reward_metrics({}, torch.zeros(count), group)


@given(
    rewards=st.lists(st.floats(0, 3, width=32), min_size=4, max_size=4),
    shift=st.floats(-5, 5),
    other=st.lists(st.floats(0, 3, width=32), min_size=4, max_size=4),
)
def test_advantages_compare_within_the_group_only(
    rewards: list[float], shift: float, other: list[float]
) -> None:
    alone = group_advantages(torch.tensor(rewards), 4, scale=False)
    beside = group_advantages(torch.tensor([r + shift for r in rewards] + other), 4, scale=False)[:4]
    torch.testing.assert_close(alone, beside, rtol=1e-4, atol=1e-5)
    assert alone.sum().item() == pytest.approx(0, abs=1e-5)


def test_mask_ends_with_the_first_end() -> None:
    tokens = torch.tensor([[5, 9, 7, 9], [9, 5, 5, 5], [5, 5, 5, 5], [5, 8, 9, 5]])
    expected = [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0]]
    assert completion_mask(tokens, [8, 9]).int().tolist() == expected
    metrics = completion_metrics(tokens, [8, 9])
    assert metrics["completions/clipped_ratio"].item() == 0.25
    assert metrics["completions/mean_length"].item() == 9 / 4
    assert metrics["completions/mean_terminated_length"].item() == pytest.approx(5 / 3)
    assert completion_metrics(tokens[2:3], [9])["completions/max_terminated_length"].item() == 0


@given(
    log_probs=st.lists(st.floats(-8, 0), min_size=6, max_size=6),
    reference=st.lists(st.floats(-8, 0), min_size=6, max_size=6),
)
def test_kl_is_never_negative_and_zero_where_both_agree(
    log_probs: list[float], reference: list[float]
) -> None:
    ours, theirs = torch.tensor([log_probs]), torch.tensor([reference])
    assert (k3_kl(ours, theirs) >= -1e-6).all()
    assert k3_kl(ours, ours).abs().max() == 0


def test_kl_is_unbiased() -> None:
    policy, reference = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.3, 0.5])
    exact = (policy * (policy / reference).log()).sum()
    torch.testing.assert_close((policy * k3_kl(policy.log(), reference.log())).sum(), exact)


def test_unbiased_kl_has_the_gradient_of_the_true_kl() -> None:
    """This holds on average over samples.

    The plain estimate has another gradient, because the policy decides what is sampled.
    """
    logits = torch.tensor([0.5, 0.0, -1.0], requires_grad=True)
    reference = torch.tensor([0.2, 0.3, 0.5]).log()
    policy = logits.log_softmax(0)
    (exact,) = torch.autograd.grad((policy.exp() * (policy - reference)).sum(), logits, retain_graph=True)
    found = {}
    for unbiased in (False, True):
        average = logits.new_zeros(())
        for token, share in enumerate(policy.exp().tolist()):
            sampled = [values[token].view(1, 1) for values in (policy, reference)]
            options = {"reference": sampled[1], "beta": 1.0, "unbiased_kl": unbiased}
            loss, _ = grpo_loss(sampled[0], torch.ones(1, 1).bool(), torch.zeros(1), **options)
            average = average + share * loss
        (found[unbiased],) = torch.autograd.grad(average, logits, retain_graph=True)
    torch.testing.assert_close(found[True], exact)
    assert (found[False] - exact).abs().max() > 0.05


def test_kl_starts_at_zero_when_the_reference_is_the_policy() -> None:
    """It does not in LENS, whose policy and reference number the positions differently."""
    log_probs = -torch.rand(4, 5)
    _, metrics = grpo_loss(log_probs, torch.ones(4, 5).bool(), torch.zeros(4), reference=log_probs, beta=0.04)
    assert metrics["kl"].item() == 0


def test_gradient_on_policy_is_that_of_reinforce() -> None:
    log_probs = (-torch.rand(4, 5)).requires_grad_()
    mask = torch.arange(5) < torch.tensor([5, 1, 3, 2])[:, None]
    advantages = torch.tensor([1.0, -1.0, 0.5, 0.0])
    loss, _ = grpo_loss(log_probs, mask, advantages)
    (gradient,) = torch.autograd.grad(loss, log_probs)
    expected = -advantages[:, None] * mask / mask.sum(1, keepdim=True) / 4
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("kind", ["grpo", "dr_grpo"])
@pytest.mark.parametrize("padding", [math.nan, -math.inf, math.inf])
def test_padding_changes_nothing(kind: Literal["grpo", "dr_grpo"], padding: float) -> None:
    """Neither does a completion without a single token."""
    random = torch.Generator().manual_seed(0)
    tensors = [-torch.rand((4, 5), generator=random) for _ in range(3)]
    mask = torch.arange(5) < torch.tensor([5, 0, 3, 2])[:, None]
    results = []
    for filling in (0.0, padding):
        log_probs, old, reference = (t.masked_fill(~mask, filling) for t in tensors)
        log_probs.requires_grad_()
        loss, metrics = grpo_loss(
            log_probs,
            mask,
            torch.tensor([1.0, -1.0, 0.5, 0.0]),
            old=old,
            reference=reference,
            beta=0.04,
            kind=kind,
            max_length=5,
        )
        loss.backward()
        assert log_probs.grad is not None
        results.append([loss.detach(), log_probs.grad, *metrics.values()])
    for clean, padded in zip(*results, strict=True):
        assert padded.isfinite().all()
        torch.testing.assert_close(padded, clean)


def test_what_the_loss_needs_is_asked_for() -> None:
    log_probs, mask, advantages = torch.zeros(2, 3), torch.ones(2, 3).bool(), torch.zeros(2)
    with pytest.raises(ValueError, match="reference policy"):
        grpo_loss(log_probs, mask, advantages, beta=0.1)
    with pytest.raises(ValueError, match="max_length"):
        grpo_loss(log_probs, mask, advantages, kind="dr_grpo")


def test_a_few_steps_find_the_rewarded_token() -> None:
    """All pieces together: sample, score, compare, improve."""
    torch.manual_seed(0)
    logits = torch.zeros(5, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(60):
        tokens = torch.multinomial(logits.detach().softmax(0).expand(16, -1), 3, replacement=True)
        rewards = (tokens == 2).float().mean(dim=1)
        log_probs = logits.log_softmax(0)[tokens]
        loss, _ = grpo_loss(log_probs, completion_mask(tokens, [4]), group_advantages(rewards, 8))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert logits.softmax(0)[2] > 0.9
