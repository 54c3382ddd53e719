"""Compute group-relative policy optimization (DeepSeekMath, arXiv 2402.03300) on plain tensors.

Loss and metrics are those of TRL's ``GRPOTrainer`` (1.16), which LENS was trained with; the tests compare
them.

Shape suffixes: N completions, the members of N / G groups, one group after another; G completions of a
prompt; T tokens of the longest completion. Shorter ones are padded on the right, and no value at a padded
position counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch

Metrics = dict[str, torch.Tensor]  # scalars without gradient, on the device: reading them is what waits


def completion_mask(tokens: torch.Tensor, ends: Sequence[int]) -> torch.Tensor:
    """Return ``(N, T)`` bool: the tokens up to the first of ``ends``, included: to stop is an action too.

    Args:
        tokens: ``(N, T)`` int64, as sampled.
        ends: ids of the tokens that end a completion.
    """
    is_end = _is_end(tokens, ends)
    return is_end.cumsum(dim=1) - is_end.long() == 0


def group_advantages(rewards: torch.Tensor, group: int, *, scale: bool = True) -> torch.Tensor:
    """Return how much better each completion is than its group.

    It is ``(reward - mean) / (standard deviation + 1e-4)``.

    Args:
        rewards: ``(N,)``.
        group: completions per prompt, G.
        scale: False leaves the division out (Dr. GRPO): prompts whose completions hardly differ then weigh as
            little as they differ.

    Returns:
        ``(N,)`` float32, without gradient.

    Raises:
        ValueError: a group of less than two, or N is not a multiple of it.
    """
    grouped = _grouped(rewards, group)
    advantages = grouped - grouped.mean(dim=1, keepdim=True)
    if scale:
        advantages = advantages / (grouped.std(dim=1, keepdim=True) + 1e-4)
    return advantages.flatten()


def k3_kl(log_probs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Return Schulman's estimate k3 of KL(policy || reference) from one sample per position.

    It is unbiased, never negative, and 0 where both agree. Shapes ``(N, T)``, the log-probabilities of the
    sampled tokens.
    """
    difference = reference - log_probs
    return difference.exp() - difference - 1


def grpo_loss(
    log_probs: torch.Tensor,
    mask: torch.Tensor,
    advantages: torch.Tensor,
    *,
    old: torch.Tensor | None = None,
    reference: torch.Tensor | None = None,
    beta: float = 0.0,
    unbiased_kl: bool = False,
    epsilon: float = 0.2,
    kind: Literal["grpo", "dr_grpo"] = "grpo",
    max_length: int | None = None,
) -> tuple[torch.Tensor, Metrics]:
    """Return the GRPO loss, averaged over tokens.

    Each token has ``-min(ratio * A, clip(ratio, 1 - epsilon, 1 + epsilon) * A) + beta * KL``.

    Args:
        log_probs: ``(N, T)`` of the sampled tokens under the policy, with gradient, at temperature 1.
        mask: ``(N, T)`` bool, see :func:`completion_mask`. What stands outside of it may be anything, NaN
            and infinities included.
        advantages: ``(N,)``, see :func:`group_advantages`.
        old: ``(N, T)`` under the policy that sampled them, without gradient. None if that is this very policy
            (one update per rollout): the ratio is then 1, and only its gradient counts.
        reference: ``(N, T)`` under the reference policy, without gradient; needed if ``beta`` is not 0.
        unbiased_kl: weighs the KL of each token with its ratio, so that its gradient is on average that of
            the true KL (DeepSeek-V3.2, arXiv 2512.02556; TRL's default today). LENS does without.
        kind: ``"grpo"`` takes the mean of each completion, then of those (as LENS); ``"dr_grpo"`` divides the
            sum over all tokens by ``N * max_length``, so that a token weighs the same in a long completion
            (arXiv 2503.20783).
        max_length: the limit of tokens per completion; needed for ``"dr_grpo"``.

    Returns:
        The scalar loss, and the metrics ``kl`` (if there is a reference) and ``clip_ratio/low_mean``,
        ``/high_mean``, ``/region_mean``: means over all tokens of this process.

    Raises:
        ValueError: ``beta`` without ``reference``, or ``"dr_grpo"`` without ``max_length``.
    """
    if beta != 0 and reference is None:
        raise ValueError("beta is not 0, so grpo_loss needs the log-probabilities of the reference policy")
    log_probs = _filled(log_probs, mask)  # also stops what padding does to the gradient further down
    old = log_probs.detach() if old is None else old
    gain = advantages[:, None]
    ratio = (log_probs - old).exp()
    per_token = -torch.min(ratio * gain, ratio.clamp(1 - epsilon, 1 + epsilon) * gain)
    low = (ratio < 1 - epsilon) & (gain < 0)
    high = (ratio > 1 + epsilon) & (gain > 0)
    metrics = {
        "clip_ratio/low_mean": token_mean(low, mask),
        "clip_ratio/high_mean": token_mean(high, mask),
        "clip_ratio/region_mean": token_mean(low | high, mask),
    }
    if reference is not None:
        kl = k3_kl(log_probs, reference)
        if unbiased_kl:
            kl = kl * ratio
        if beta != 0:
            per_token = per_token + beta * kl
        metrics["kl"] = token_mean(kl, mask)
    sums = _filled(per_token, mask).sum(dim=1)
    if kind == "grpo":
        return (sums / mask.sum(dim=1).clamp_min(1)).mean(), metrics
    if max_length is None:
        raise ValueError("dr_grpo divides by the limit of tokens per completion: grpo_loss needs max_length")
    return sums.mean() / max_length, metrics


def token_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean of ``values`` ``(N, T)`` where ``mask``, over all completions at once.

    A scalar without gradient. Of the policy's entropies it is the metric ``entropy``.
    """
    return _filled(values.detach(), mask).sum() / mask.sum().clamp_min(1)


def completion_metrics(tokens: torch.Tensor, ends: Sequence[int]) -> Metrics:
    """Return ``completions/`` lengths and the share of completions that never ended.

    The latter is ``completions/clipped_ratio``.

    Args:
        tokens, ends: as in :func:`completion_mask`.
    """
    mask = completion_mask(tokens, ends)
    lengths = mask.sum(dim=1).float()
    ended = _is_end(tokens, ends).any(dim=1)
    whole = lengths[ended] if ended.any() else lengths.new_zeros(1)
    metrics = {"completions/clipped_ratio": (~ended).float().mean()}
    for name, of in (("", lengths), ("terminated_", whole)):
        metrics[f"completions/mean_{name}length"] = of.mean()
        metrics[f"completions/min_{name}length"] = of.min()
        metrics[f"completions/max_{name}length"] = of.max()
    return metrics


def reward_metrics(rewards: Mapping[str, torch.Tensor], total: torch.Tensor, group: int) -> Metrics:
    """Return metrics of the rewards of all completions.

    ``rewards/NAME/mean`` and ``/std`` of each reward, ``reward`` and ``reward_std`` of the weighted total,
    and ``frac_reward_zero_std``, the share of groups that teach nothing.

    Args:
        rewards: by name, each ``(N,)`` and without its weight.
        total: ``(N,)``.
        group: completions per prompt, G.

    Raises:
        ValueError: as :func:`group_advantages`.
    """
    spread = _grouped(total, group).std(dim=1)
    metrics = {
        "reward": total.mean(),
        "reward_std": total.std(),
        "frac_reward_zero_std": torch.isclose(spread, torch.zeros_like(spread)).float().mean(),
    }
    for name, reward in rewards.items():
        metrics[f"rewards/{name}/mean"] = reward.mean()
        metrics[f"rewards/{name}/std"] = reward.std()
    return metrics


def _is_end(tokens: torch.Tensor, ends: Sequence[int]) -> torch.Tensor:
    return torch.isin(tokens, torch.tensor(ends, dtype=tokens.dtype, device=tokens.device))


def _grouped(rewards: torch.Tensor, group: int) -> torch.Tensor:
    if group < 2 or len(rewards) % group:
        raise ValueError(f"{len(rewards)} rewards do not make whole groups of {group}, each of two or more")
    return rewards.detach().float().reshape(-1, group)


def _filled(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return float32 with 0 outside of the mask, where a product would keep NaN and infinities."""
    return values.float().masked_fill(~mask, 0.0)
