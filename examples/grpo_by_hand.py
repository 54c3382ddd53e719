"""One GRPO step of lens-nano, written out by hand: sample, reward, compare, improve.

    python examples/grpo_by_hand.py [--group 6] [--seed 0] [--steps 1]

It leaves out what makes training fast (shared prefixes, caches, batches) and keeps what it computes: the loss
and gradients of `training/reinforce.py` on the same completions (tests/training/test_grpo_by_hand.py). One
picture, one instruction; the true box ships with the picture, the segmenter's mask of it is the true mask.
Shape suffixes: G completions, P prompt tokens, T answer tokens, Q queries, H hidden size, V vocabulary.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from lens_ros.inputs import as_rgb
from lens_ros.instances import box_iou
from lens_ros.lens import Lens
from lens_ros.model import prompts
from lens_ros.model.answer_parsing import extent, parse_answer
from lens_ros.model.images import reasoner_picture, segmenter_picture, visual_grid
from lens_ros.model.network import LensModel
from lens_ros.model.positions import mrope_positions

PICTURES = Path(__file__).parents[1] / "lens_ros" / "engine" / "pictures"


@dataclass(frozen=True)
class Task:
    """A prompt and the truth: pictures (1, h, w, 3) uint8, ids (P,), box in fractions, mask (H, W) bool."""

    reasoner_rgb: torch.Tensor
    segmenter_rgb: torch.Tensor
    prompt_P: torch.Tensor
    box: tuple[float, float, float, float]
    mask_HW: torch.Tensor


def task_of(lens: Lens, rgb: np.ndarray, instruction: str, box: tuple, mask: np.ndarray) -> Task:
    """Build the prompt of an instruction about a picture."""
    config = lens.model.config
    picture = reasoner_picture(rgb, config.image)
    rows, columns = visual_grid(*picture.shape[:2])
    text = prompts.image_prefix(rows * columns, config.wording)
    text += prompts.question(instruction, config.wording)
    ids = torch.tensor(lens.tokenizer.encode(text, add_special_tokens=False))
    seen, cut = (torch.from_numpy(p)[None] for p in (picture, segmenter_picture(rgb, config.image)))
    return Task(seen, cut, ids, box, torch.from_numpy(mask))


def read(
    model: LensModel, task: Task, visual: torch.Tensor, answer_T: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Read prompt, answer and context queries at once; return hidden states (P + T, H) and (Q, H)."""
    ids = torch.cat([task.prompt_P, answer_T])
    queries_QH = model.context_module().learnable_query.flatten(0, -2)
    grid = visual_grid(*task.reasoner_rgb.shape[1:3])
    positions, following = mrope_positions(ids, model.reasoner.config.image_token_id, grid)
    after = (following + torch.arange(len(queries_QH))).expand(3, -1)
    hidden = model.language_model(
        inputs_embeds=torch.cat([model.embed(ids[None], visual), queries_QH[None]], dim=1),
        position_ids=torch.cat([positions, after], dim=1)[:, None],
        use_cache=False,
    ).last_hidden_state[0]
    return hidden[: len(ids)], hidden[len(ids) :]


@torch.no_grad()
def sample(model: LensModel, task: Task, end: int, longest: int, generator: torch.Generator) -> torch.Tensor:
    """Draw one answer (T,), its end token included, a token at a time."""
    answer_T, visual = task.prompt_P.new_zeros(0), model.see(task.reasoner_rgb)[1][0]
    while len(answer_T) < longest and (len(answer_T) == 0 or answer_T[-1] != end):
        hidden, _ = read(model, task, visual, answer_T)
        probabilities_V = model.reasoner.lm_head(hidden[-1]).float().softmax(-1)
        answer_T = torch.cat([answer_T, torch.multinomial(probabilities_V, 1, generator=generator)])
    return answer_T


def reward(lens: Lens, task: Task, answer_T: torch.Tensor, logits_HW: torch.Tensor) -> float:
    """Add the rewards for the form, for the box (IoU squared) and for the mask (IoU squared)."""
    text = lens.tokenizer.decode([t for t in answer_T.tolist() if t != lens.tokenizer.eos_token_id])
    answer = parse_answer(text, extent(lens.model.config.coordinates, *task.reasoner_rgb.shape[2:0:-1]))
    form = float(answer.well_formed and bool(answer.rationale))
    found = [(b.x1, b.y1, b.x2, b.y2) for b in answer.boxes]
    box = max((box_iou(each, task.box) ** 2 for each in found), default=0.0) / max(1, len(found))
    predicted = logits_HW > 0
    overlap, union = (predicted & task.mask_HW).sum(), (predicted | task.mask_HW).sum()
    return form + box + float((overlap / (union + 1e-6)) ** 2)


def grpo_loss(lens: Lens, task: Task, answers: list[torch.Tensor]) -> tuple[torch.Tensor, list[float]]:
    """Return the loss of a group of answers, with gradient, and their rewards."""
    model, spoken, rewards, mask_losses = lens.model, [], [], []
    visual, features = model.see(task.reasoner_rgb)[1][0], model.encode_image(task.segmenter_rgb)
    truth_HW = task.mask_HW.float()
    for answer_T in answers:
        hidden, queries_QH = read(model, task, visual, answer_T)
        # The hidden state before a token predicts it: from the prompt's last one on.
        log_probs_TV = model.reasoner.lm_head(hidden[len(task.prompt_P) - 1 : -1]).float().log_softmax(-1)
        spoken.append(log_probs_TV.gather(1, answer_T[:, None])[:, 0])
        low, iou = model.decode(features, model.context_module()(queries_QH[None]))
        logits_HW = F.interpolate(low.float(), truth_HW.shape, mode="bilinear", align_corners=False)[0, 0]
        rewards.append(reward(lens, task, answer_T, logits_HW.detach()))
        bce = F.binary_cross_entropy_with_logits(logits_HW, truth_HW)
        shares = logits_HW.sigmoid()
        dice = 1 - (2 * (shares * truth_HW).sum() + 1) / (shares.sum() + truth_HW.sum() + 1)
        right, seen = (logits_HW > 0) & task.mask_HW, (logits_HW > 0) | task.mask_HW
        mask_losses.append(bce + dice + (iou[0, 0].float() - right.sum() / seen.sum().clamp_min(1)) ** 2)
    rewards_G = torch.tensor(rewards)
    advantages_G = (rewards_G - rewards_G.mean()) / (rewards_G.std() + 1e-4)
    # exp(x - x.detach()) is 1 with the gradient of x: the policy has not moved since it drew these answers.
    gains = [((p_T - p_T.detach()).exp() * a).mean() for p_T, a in zip(spoken, advantages_G, strict=True)]
    return -torch.stack(gains).mean() + torch.stack(mask_losses).mean(), rewards


def main() -> None:
    """Take a few steps and print the rewards of each group."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name, default in (("--group", 6), ("--seed", 0), ("--steps", 1)):
        parser.add_argument(name, type=int, default=default)
    options = parser.parse_args()
    lens = Lens.from_pretrained("lens-nano", backend="torch")
    known = json.loads((PICTURES / "boxes.json").read_text())["asked"]
    rgb = as_rgb(PICTURES / known["picture"])
    masks, _ = lens.decode_boxes(lens.look(rgb), [tuple(known["box"])])
    box = tuple(np.array(known["box"]) / np.tile(rgb.shape[1::-1], 2))
    task = task_of(lens, rgb, known["text"], box, masks[0])
    generator = torch.Generator().manual_seed(options.seed)
    optimizer = torch.optim.AdamW(lens.model.parameters(), lr=1e-5)
    for step in range(options.steps):
        end = lens.tokenizer.eos_token_id
        answers = [sample(lens.model, task, end, 80, generator) for _ in range(options.group)]
        loss, rewards = grpo_loss(lens, task, answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step}: loss {loss.item():.4f}, rewards", *(f"{each:.2f}" for each in rewards))


if __name__ == "__main__":
    main()
