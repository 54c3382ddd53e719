"""Train a policy with unified rewards on sentence, box and mask (stage 2 of LENS, reinforcement).

Usage: ``python -m training.reinforce CONFIG [field=value ...]``

A step draws G completions of every prompt from the current policy. It reads them again in one forward pass
that gives log-probabilities and masks. Each completion is rewarded for its form, its boxes and its own mask.
The step minimises the sum of GRPO and segmentation loss (arXiv 2508.14153, section 3). All members of a group
answer the same instruction. Rollout, policy and reference use one position scheme, so that the KL divergence
begins at 0. The mask decoder continues from the weights that it is given. (The reference code differs in
these points: docs/guides/training.md.)
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from lens_ros.model import prompts
from lens_ros.model.answer_parsing import Box, ParsedAnswer, extent, parse_answer
from lens_ros.model.checkpoint import find_model, load_model
from lens_ros.model.generation import Sampling
from training.config import ReinforceConfig
from training.data.examples import Example, Examples, taught
from training.data.tabletop import TabletopShards
from training.grpo import completion_metrics, group_advantages, grpo_loss, reward_metrics, token_mean
from training.loop import Task, Turn, command_line, to_device
from training.lora import inject
from training.losses import mask_iou, segmentation_loss, upsampled
from training.parts import freeze_all_but
from training.policy import Completions, Judged, Policy, without_adapters
from training.progress import Values
from training.rewards import box_reward, combine, format_reward, segment_reward
from training.rollout import roll_out, texts


class Reinforce(Task):
    """Reinforcement task: the policy, its reference, and the loss of a turn."""

    program = "training.reinforce"
    shown = ("reward", "rewards/box/mean", "rewards/segment/mean", "kl")

    def __init__(self, config: ReinforceConfig) -> None:
        """Load the model that the run begins with.

        Raises:
            ValueError: There is no ``start_from``, or numbers do not fit each other.
        """
        shares = config.processes * config.accumulate
        if config.prompts % shares:
            raise ValueError(
                f"prompts ({config.prompts}) must be a multiple of processes times accumulate ({shares})"
            )
        if not config.start_from:
            raise ValueError("reinforcement needs a model that can answer already: name it in start_from")
        self.config = config
        self.model, self.tokenizer = load_model(find_model(config.start_from))
        reference = copy.deepcopy(self.model) if config.beta and config.lora is None else None
        freeze_all_but(self.model, config.train)
        if config.lora is not None:
            inject(self.model, config.lora, config.seed)
        self.module = self.policy = Policy(self.model)
        self.reference = None if reference is None else Policy(reference).requires_grad_(False)
        side = self.model.config.image.reasoner_size
        self._examples = Examples(TabletopShards(config.data), config.scenes, config.mix, side)
        self._count = config.prompts // shares

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        if self.reference is not None:
            self.reference.to(self.model.device)
        trained = [p for p in self.module.parameters() if p.requires_grad]
        return {"adam": torch.optim.AdamW(trained, self.config.lr, weight_decay=self.config.weight_decay)}

    def loss(self, wrapped: nn.Module, turn: Turn) -> tuple[torch.Tensor, Values]:
        config = self.config
        rng = np.random.default_rng([config.seed, turn.step, turn.share])
        examples = self._examples.draw(rng, self._count * config.oversample)
        prompted = to_device(taught(examples, self.model, self.tokenizer), self.model.device)
        drawn = config.sampling
        completions = roll_out(
            self.policy,
            prompted,
            self.tokenizer,
            group=config.group,
            sampling=Sampling(drawn.temperature, drawn.top_k, drawn.top_p, seed=int(rng.integers(2**62))),
            max_new_tokens=config.max_new_tokens,
        )
        form, box = self._sentences(examples, completions)
        earned = (config.rewards.format * form + config.rewards.box * box).view(len(examples), config.group)
        rows = earned.std(dim=1).topk(self._count).indices.sort().values
        kept = _Kept(
            [examples[row] for row in rows.tolist()],
            completions.rows(rows),
            form.view_as(earned)[rows].flatten(),
            box.view_as(earned)[rows].flatten(),
        )
        reference = self._reference(kept.completions)
        loss, metrics = self._objective(kept, wrapped(kept.completions), reference)
        return loss, {**metrics, "drawn/format": form.mean(), "drawn/box": box.mean()}

    def _reference(self, completions: Completions) -> torch.Tensor | None:
        """Return log-probabilities ``(B, G, T)`` under the initial model, or None without a KL term."""
        if not self.config.beta:
            return None
        with torch.no_grad():
            if self.reference is not None:
                return self.reference(completions, with_masks=False).log_probs
            with without_adapters(self.policy):
                return self.policy(completions, with_masks=False).log_probs

    def _objective(
        self, kept: _Kept, judged: Judged, reference: torch.Tensor | None
    ) -> tuple[torch.Tensor, Values]:
        config, group, completions = self.config, self.config.group, kept.completions
        assert judged.masks is not None and judged.iou is not None
        segment = _segments(judged.masks, judged.iou, kept.examples)
        rewards = {"format": kept.format, "box": kept.box, "segment": segment.rewards}
        total = combine(config.rewards, **rewards)
        spoken = completions.completion_mask.flatten(0, 1).bool()
        policy_loss, metrics = grpo_loss(
            judged.log_probs.flatten(0, 1),
            spoken,
            group_advantages(total, group, scale=config.scale_rewards),
            reference=None if reference is None else reference.flatten(0, 1),
            beta=config.beta,
            unbiased_kl=config.unbiased_kl,
            kind=config.loss,
            max_length=config.max_new_tokens,
        )
        loss = config.grpo_weight * policy_loss + config.segment_weight * (segment.loss + segment.score_loss)
        ends = (self.tokenizer.eos_token_id, self.tokenizer.pad_token_id)
        return loss, {
            **metrics,
            **reward_metrics(rewards, total, group),
            **completion_metrics(completions.completion_ids.flatten(0, 1), ends),
            "entropy": token_mean(judged.entropy.flatten(0, 1), spoken),
            "loss/grpo": policy_loss.detach(),
            "loss/segment": segment.loss.detach(),
            "loss/score": segment.score_loss.detach(),
            "iou": segment.iou,
        }

    def _sentences(
        self, examples: Sequence[Example], completions: Completions
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return format and box rewards, each ``(B * G,)`` float32."""
        config = self.model.config
        height, width = completions.reasoner_images.shape[1:3]
        limits = extent(config.coordinates, width, height)
        form, box = [], []
        for example, said in zip(examples, texts(completions, self.tokenizer), strict=True):
            opening = prompts.opening(config.wording, think=example.think)
            true = [Box(*corners) for corners in example.boxes]
            answers: list[ParsedAnswer] = [parse_answer(opening + text, limits) for text in said]
            form += [format_reward(answer, thinking=example.think) for answer in answers]
            box += [box_reward(answer, true) for answer in answers]
        device = completions.completion_ids.device
        return torch.tensor(form, device=device), torch.tensor(box, device=device)


class _Kept(NamedTuple):
    """Prompts that are trained on: B examples, their completions, and their rewards.

    ``format`` and ``box`` are the rewards for form and boxes, ``(B * G,)`` each.
    """

    examples: Sequence[Example]
    completions: Completions
    format: torch.Tensor
    box: torch.Tensor


class _Segments(NamedTuple):
    """Rewards and losses of masks.

    Attributes:
        rewards: Segment rewards, ``(B * G,)``, without gradient.
        loss: Mean over all masks of BCE + dice.
        score_loss: Mean squared error of the predicted IoU.
        iou: Mean IoU, without gradient.
    """

    rewards: torch.Tensor
    loss: torch.Tensor
    score_loss: torch.Tensor
    iou: torch.Tensor


def _segments(masks: torch.Tensor, scores: torch.Tensor, examples: Sequence[Example]) -> _Segments:
    """Compare masks and predicted IoU with the truth, at each image's own resolution.

    Args:
        masks: Mask logits, ``(B, G, h, w)``.
        scores: Predicted IoU, ``(B, G)``.
        examples: The ``B`` examples with the true masks.
    """
    rewards, losses, ious = [], [], []
    for group, example in zip(masks, examples, strict=True):
        true = torch.from_numpy(example.mask).to(group.device).expand(len(group), -1, -1)
        rewards.append(segment_reward(group, true))
        losses.append(segmentation_loss(group, true))
        with torch.no_grad():
            ious.append(mask_iou(upsampled(group, true.shape[-2:]), true.float()))
    iou = torch.stack(ious)
    # Train the score that is published with a mask to predict its IoU; LENS leaves SAM 2's as it is.
    score_loss = F.mse_loss(scores.float(), iou)
    return _Segments(torch.cat(rewards), torch.cat(losses).mean(), score_loss, iou.mean())


def main(arguments: list[str] | None = None) -> int:
    return command_line("training.reinforce", __doc__, ReinforceConfig, Reinforce, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
