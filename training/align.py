"""Train the context module to read out a trained reasoner (stage 1 of LENS, alignment).

Usage: ``python -m training.align CONFIG [field=value ...]``

The reasoner is given its true answers (teacher forcing). The context module learns to extract from its hidden
states what the segmenter needs (arXiv 2508.14153, section 3.3). The loss is BCE + dice on the masks. Only the
parts that the configuration names are trained. See :mod:`training.loop`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from lens_ros.model.checkpoint import find_model, load_model
from lens_ros.model.config import ContextConfig
from lens_ros.model.context import ContextModule
from lens_ros.model.network import LensModel
from training import lora
from training.config import AlignConfig
from training.data.examples import Example, Examples, taught
from training.data.tabletop import TabletopShards
from training.loop import Task, Turn, command_line, to_device
from training.losses import mask_iou, segmentation_loss, upsampled
from training.parts import freeze_all_but
from training.policy import Policy


class Alignment(Task):
    """Alignment task: one true answer per image, AdamW on the trained parts."""

    program = "training.align"
    shown = ("loss", "iou")

    def __init__(self, config: AlignConfig) -> None:
        """Load the model and prepare the parts to train.

        Raises:
            ValueError: There is no model to start from, nothing to train, the images cannot be divided evenly
                among processes, or there are too few scenes.
        """
        shares = config.processes * config.accumulate
        if config.images % shares:
            raise ValueError(
                f"images ({config.images}) must be a multiple of processes * accumulate "
                f"({config.processes} * {config.accumulate})"
            )
        if not config.start_from:
            raise ValueError("start_from is empty: alignment needs a trained reasoner (such as lens-nano)")
        self.config = config
        self.model, self.tokenizer = load_model(find_model(config.start_from))
        if config.fresh_context:
            renew_context(self.model, config.seed)
        if self.model.config.image.segmenter_fit != "squash":
            raise ValueError("alignment compares masks of whole pictures: segmenter_fit must be 'squash'")
        self.module = Policy(self.model)
        freeze_all_but(self.model, config.train)
        # BCE and dice give no training signal for the predicted IoU.
        self.model.segmenter.sam.mask_decoder.iou_prediction_head.requires_grad_(False)
        if config.lora is not None:
            lora.inject(self.model, config.lora, config.seed)
        if not any(p.requires_grad for p in self.module.parameters()):
            raise ValueError("nothing is trained: name parts in 'train', or give a block 'lora'")
        side = self.model.config.image.reasoner_size
        self._examples = Examples(TabletopShards(config.data), config.scenes, config.mix, side)

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        trained = [p for p in self.module.parameters() if p.requires_grad]
        return {"adam": torch.optim.AdamW(trained, self.config.lr, weight_decay=self.config.weight_decay)}

    def loss(self, wrapped: nn.Module, turn: Turn) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        config = self.config
        rng = np.random.default_rng([config.seed, turn.step, turn.share])
        examples = self._examples.draw(rng, config.images // (turn.world * config.accumulate))
        completions = taught(examples, self.model, self.tokenizer)
        judged = wrapped(to_device(completions, self.model.device))
        loss, iou = mask_losses(judged.masks[:, 0], examples)
        # If the language model is trained, its head must be part of the backward pass under DDP.
        return loss.mean() + 0 * judged.log_probs.sum(), {"iou": iou.mean()}


def mask_losses(logits: torch.Tensor, examples: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return BCE + dice and IoU (without gradient) of each mask at its image's resolution.

    Args:
        logits: One mask per example, ``(B, h, w)``.
        examples: The ``B`` examples with the true masks.

    Returns:
        Loss and IoU, ``(B,)`` each.
    """
    losses, ious = [], []
    for row, example in zip(logits, examples, strict=True):
        true = torch.from_numpy(example.mask)[None].to(row.device)
        losses.append(segmentation_loss(row[None], true))
        ious.append(mask_iou(upsampled(row[None].detach(), true.shape[-2:]), true.float()))
    return torch.cat(losses), torch.cat(ious)


def renew_context(model: LensModel, seed: int) -> None:
    """Replace the model's context module by a newly initialised one.

    It has the sizes of the previous one, or those of the paper if the model had none.
    """
    sizes = model.config.context or ContextConfig()
    model.config = dataclasses.replace(model.config, context=sizes)
    torch.manual_seed(seed)
    model.context = ContextModule(model.width, model.segmenter.prompt_width, sizes)


def main(arguments: list[str] | None = None) -> int:
    return command_line("training.align", __doc__, AlignConfig, Alignment, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
