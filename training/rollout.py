"""Sampling of completions from the policy."""

from __future__ import annotations

import dataclasses

import torch
from transformers import PreTrainedTokenizerFast

from lens_ros.model.generation import Sampling, generate
from training.policy import Completions, Policy


@torch.no_grad()
def roll_out(
    policy: Policy,
    prompted: Completions,
    tokenizer: PreTrainedTokenizerFast,
    *,
    group: int,
    sampling: Sampling,
    max_new_tokens: int,
) -> Completions:
    """Draw ``group`` completions for each image and prompt from the current policy.

    Image and prompt are read once for the whole group. Every process draws its own completions from its own
    weights, so no process can use outdated weights. (In the reference code all processes but the first kept
    sampling from the untrained model.)

    Returns:
        The same images and prompts with the drawn completions.
    """
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
    return dataclasses.replace(
        prompted,
        completion_ids=said.token_ids.view(len(ids), group, -1),
        completion_mask=said.mask.view(len(ids), group, -1),
    )


def texts(completions: Completions, tokenizer: PreTrainedTokenizerFast) -> list[list[str]]:
    """Return the text of each completion without its end token, as ``[b][g]``."""
    end = tokenizer.eos_token_id
    rows = zip(
        completions.completion_ids.flatten(0, 1).tolist(),
        completions.completion_mask.flatten(0, 1).tolist(),
        strict=True,
    )
    said = [
        tokenizer.decode([token for token, seen in zip(ids, mask, strict=True) if seen and token != end])
        for ids, mask in rows
    ]
    group = completions.group
    return [said[start : start + group] for start in range(0, len(said), group)]
