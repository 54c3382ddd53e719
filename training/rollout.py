"""Drawing completions: what the policy says to a prompt, G times."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerFast

from lens_ros.model.answers import Answer, extent, parse_answer
from lens_ros.model.generation import Sampling, generate
from training.data.prompted import Prompted
from training.policy import Completions, Policy


@dataclass(frozen=True)
class Rollout:
    """``completions``, and what they say: ``answers[b][g]`` belongs to the g-th completion of prompt b."""

    completions: Completions
    answers: list[list[Answer]]


@torch.no_grad()
def roll_out(
    policy: Policy,
    prompted: Prompted,
    tokenizer: PreTrainedTokenizerFast,
    *,
    group: int,
    sampling: Sampling,
    max_new_tokens: int,
) -> Rollout:
    """``group`` completions of every prompt, drawn from the policy as it is now, image and prompt read once
    for all of them. Every process draws its own, from its own weights: nothing can lag behind (in the
    reference, all processes but the first sampled from the untrained model)."""
    model = policy.model
    ids, mask = prompted.prompt_ids, prompted.prompt_mask
    reading, last = policy.read_prompts(prompted.reasoner_images, ids, mask)
    said = generate(
        reading.fork(group),
        model.reasoner.lm_head(last).repeat_interleave(group, dim=0),
        embed=model.language_model.embed_tokens,
        head=model.reasoner.lm_head,
        end_token=tokenizer.eos_token_id,
        pad_token=tokenizer.pad_token_id,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
    )
    completions = Completions(
        prompted.reasoner_images,
        prompted.segmenter_images,
        ids,
        mask,
        said.token_ids.view(len(ids), group, -1),
        said.mask.view(len(ids), group, -1),
    )
    height, width = prompted.reasoner_images.shape[1:3]
    limits = extent(model.config.coordinates, width, height)
    texts = [
        tokenizer.decode(
            [t for t, seen in zip(row, kept, strict=True) if seen and t != tokenizer.eos_token_id]
        )
        for row, kept in zip(said.token_ids.tolist(), said.mask.tolist(), strict=True)
    ]
    answers = [
        [parse_answer(opening + text, limits) for text in texts[k * group : (k + 1) * group]]
        for k, opening in enumerate(prompted.openings)
    ]
    return Rollout(completions, answers)
