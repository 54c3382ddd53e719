"""Stage 2 of LENS, reinforcement: ``python -m training.reinforce CONFIG [field=value ...]``.

A step draws G completions of every prompt from the policy as it is, reads them again in one forward pass
that gives log-probabilities and masks, rewards each for its form, its boxes and its own mask, and takes one
step on the sum of GRPO and segmentation loss (arXiv 2508.14153, section 3). All members of a group answer the
same instruction, and rollout, policy and reference use one position scheme, so that the KL divergence begins
at 0; the mask decoder goes on from what it was. (In the reference's code these differ: docs/training.md.)
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn import functional as F

from lens_ros.model.checkpoint import find_model, load_model
from lens_ros.model.generation import Sampling
from training.config import ReinforceConfig
from training.data.batches import BatchPlan
from training.data.prompted import Prompted, Prompter
from training.data.tabletop import TabletopShards
from training.grpo import completion_metrics, group_advantages, grpo_loss, reward_metrics, token_mean
from training.loop import Task, Turn, command_line, to_device
from training.lora import inject
from training.losses import mask_iou, segmentation_loss, upsampled
from training.parts import freeze_all_but
from training.policy import Completions, Judged, Policy, without_adapters
from training.progress import Values
from training.rewards import box_reward, combine, format_reward, segment_reward
from training.rollout import Rollout, roll_out


class Reinforce(Task):
    """The policy, its reference, and the loss of a turn."""

    program = "training.reinforce"
    shown = ("reward", "rewards/box/mean", "rewards/segment/mean", "kl")

    def __init__(self, config: ReinforceConfig) -> None:
        """Loads the model that the run begins with.

        Raises:
            ValueError: no ``start_from``, or numbers that do not fit each other.
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
            inject(self.model, config.lora)
        self.module = self.policy = Policy(self.model)
        self.reference = None if reference is None else Policy(reference).requires_grad_(False)
        self.prompter = Prompter(TabletopShards(config.data), config.scenes, self.model, self.tokenizer)
        self.plan = BatchPlan(
            images=config.prompts // shares,
            expressions=1,
            short=False,
            simple_share=config.simple_share,
            box_prompts=1,
            unknown_words=config.unknown_words,
            all_share=config.all_share,
            none_share=config.none_share,
            hard_share=config.hard_share,
            fast_share=config.fast_share,
        )

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        if self.reference is not None:
            self.reference.to(self.model.device)
        trained = [p for p in self.module.parameters() if p.requires_grad]
        return {"adam": torch.optim.AdamW(trained, lr=self.config.lr, weight_decay=self.config.weight_decay)}

    def loss(self, wrapped: nn.Module, turn: Turn) -> tuple[torch.Tensor, Values]:
        config = self.config
        prompted = self.prompter.prompted(config.seed, turn.step, turn.share, self.plan)
        prompted = to_device(prompted, self.model.device)
        seed = int(torch.randint(2**62, ()))  # the loop seeds torch for the turn
        rollout = roll_out(
            self.policy,
            prompted,
            self.tokenizer,
            group=config.group,
            sampling=Sampling(
                config.sampling.temperature, config.sampling.top_k, config.sampling.top_p, seed
            ),
            max_new_tokens=config.max_new_tokens,
        )
        reference = self._reference(rollout.completions)
        judged: Judged = wrapped(rollout.completions)
        return self._objective(prompted, rollout, judged, reference)

    def _reference(self, completions: Completions) -> torch.Tensor | None:
        """Log-probabilities ``(B, G, T)`` under the model that the run began with; None without a KL term."""
        if not self.config.beta:
            return None
        with torch.no_grad():
            if self.reference is not None:
                return self.reference(completions, with_masks=False).log_probs
            with without_adapters(self.policy):
                return self.policy(completions, with_masks=False).log_probs

    def _objective(
        self, prompted: Prompted, rollout: Rollout, judged: Judged, reference: torch.Tensor | None
    ) -> tuple[torch.Tensor, Values]:
        config, group = self.config, self.config.group
        assert judged.masks is not None and judged.iou is not None
        masks = judged.masks.flatten(0, 1)
        true = prompted.masks.repeat_interleave(group, dim=0)
        rewards = _rewards(prompted, rollout, masks, true)
        total = combine(config.rewards, rewards["format"], rewards["box"], rewards["segment"])
        advantages = group_advantages(total, group, scale=config.scale_rewards)
        ids, spoken = (
            t.flatten(0, 1) for t in (rollout.completions.completion_ids, rollout.completions.completion_mask)
        )
        policy_loss, metrics = grpo_loss(
            judged.log_probs.flatten(0, 1),
            spoken.bool(),
            advantages,
            reference=None if reference is None else reference.flatten(0, 1),
            beta=config.beta,
        )
        segment_loss = segmentation_loss(masks, true).mean()
        with torch.no_grad():
            overlap = mask_iou(upsampled(masks, true.shape[-2:]), true.float())
        # The score that a mask is published with learns what it says; LENS leaves SAM 2's as it is.
        score_loss = F.mse_loss(judged.iou.flatten().float(), overlap)
        loss = config.grpo_weight * policy_loss + config.segment_weight * (segment_loss + score_loss)
        metrics |= reward_metrics(rewards, total, group)
        metrics |= completion_metrics(ids, (self.tokenizer.eos_token_id, self.tokenizer.pad_token_id))
        metrics |= {
            "entropy": token_mean(judged.entropy.flatten(0, 1), spoken.bool()),
            "loss/grpo": policy_loss.detach(),
            "loss/segment": segment_loss.detach(),
            "loss/score": score_loss.detach(),
            "context/iou": overlap.mean(),
        }
        return loss, metrics


def _rewards(
    prompted: Prompted, rollout: Rollout, masks: torch.Tensor, true: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Each ``(B * G,)`` float32, on the device of ``masks``."""
    form, box = [], []
    for opening, boxes, answers in zip(prompted.openings, prompted.boxes, rollout.answers, strict=True):
        for answer in answers:
            form.append(format_reward(answer, thinking=not opening))
            box.append(box_reward(answer, boxes))
    return {
        "format": torch.tensor(form, device=masks.device),
        "box": torch.tensor(box, device=masks.device),
        "segment": segment_reward(masks, true),
    }


def main(arguments: list[str] | None = None) -> int:
    return command_line("training.reinforce", __doc__, ReinforceConfig, Reinforce, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
