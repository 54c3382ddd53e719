"""Train lens-nano with supervision.

Usage: ``python -m training.supervise CONFIG [field=value ...]``

One run has three parts, switched by step. First the two image encoders learn from dense labels and box
prompts. Then the reasoner learns to answer simple expressions briefly. Then everything is trained on
everything: rationale and box by language loss, masks through the context queries. A run that begins with a
trained model (``start_from``) usually starts with the last part. It resumes from ``out`` if there is a
checkpoint; see :mod:`training.loop`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from lens_ros.model.checkpoint import find_model
from lens_ros.model.network import LensModel
from lens_ros.model.sam2 import ImageFeatures
from training.config import SuperviseConfig
from training.data.batches import IGNORED, Batch, BatchMaker, BatchPlan, PackedText
from training.data.tabletop import TabletopShards
from training.dense import DenseHeads
from training.loop import Task, Turn, command_line, to_device
from training.losses import language_loss, mask_iou, mask_loss
from training.nano import build_nano, inherit, number_tokens

_MASK_SIDE = 128  # side in pixels at which masks are compared: twice the decoder's resolution


class SupervisedLoss(nn.Module):
    """Total loss of a batch and its parts, computed in one forward pass."""

    def __init__(self, model: LensModel, tokenizer: PreTrainedTokenizerFast, config: SuperviseConfig) -> None:
        super().__init__()
        self.model = model
        self.heads = DenseHeads(model, tokenizer)
        self.config = config
        self.first_number, self.numbers = number_tokens(tokenizer)

    def forward(self, batch: Batch, with_queries: bool) -> tuple[torch.Tensor, dict[str, float]]:
        parts: dict[str, torch.Tensor] = {}
        metrics: dict[str, float] = {}
        patches, tokens = self.model.see(batch.reasoner_images)
        dense, measured = self.heads.vision_loss(self.model, patches, tokens, batch.dense)
        metrics.update(measured)
        few = self.config.segmenter_images // (self.config.processes * self.config.accumulate)
        features = self.model.encode_image(batch.segmenter_images[:few])
        parts["boxes"] = self._box_prompted(batch, features, metrics)
        parts["dense"] = self.config.dense_weight * (
            dense + self.heads.segmenter_loss(features, batch.dense, few)
        )
        if batch.text is not None:
            hidden = self._read(batch.text, tokens)
            parts["language"] = self._language(batch.text, hidden, metrics)
            if with_queries:
                parts["context"] = self._context_prompted(batch, batch.text, hidden, features, metrics)
        metrics.update({f"loss/{name}": part.item() for name, part in parts.items()})
        return torch.stack(list(parts.values())).sum(), metrics

    def _read(self, text: PackedText, visual: torch.Tensor) -> torch.Tensor:
        """Run the language model over packed rows with context queries in their slots: ``(B, L, H)``."""
        language_model = self.model.language_model
        embedded = language_model.embed_tokens(text.input_ids)
        image = text.input_ids == self.model.reasoner.config.image_token_id
        embedded = embedded.masked_scatter(image[..., None], visual.to(embedded.dtype))
        rows, columns = self._query_slots(text)
        count = rows.shape[0] // self.model.context_module().num_queries
        queries = self.model.context_module().learnable_query.to(embedded.dtype)[0].repeat(count, 1)
        embedded = embedded.index_put((rows, columns), queries)
        return language_model(
            inputs_embeds=embedded,
            attention_mask=text.attention,
            position_ids=text.positions,
            use_cache=False,
        ).last_hidden_state

    def _query_slots(self, text: PackedText) -> tuple[torch.Tensor, torch.Tensor]:
        """Return row and column of every query of every segment, segment by segment."""
        row, segment = (text.queries >= 0).nonzero(as_tuple=True)
        begin = text.queries[row, segment]
        count = self.model.context_module().num_queries
        columns = begin[:, None] + torch.arange(count, device=begin.device)
        return row.repeat_interleave(count), columns.flatten()

    def _language(self, text: PackedText, hidden: torch.Tensor, metrics: dict[str, float]) -> torch.Tensor:
        answered = text.labels != IGNORED
        labels = text.labels[answered]
        logits = self.model.reasoner.lm_head(hidden[answered])
        loss = language_loss(logits, labels, self.first_number, self.numbers)
        numeric = (labels >= self.first_number) & (labels < self.first_number + self.numbers)
        right = (logits.argmax(-1) == labels).float()
        metrics["language/word_accuracy"] = right[~numeric].mean().item()
        metrics["language/number_accuracy"] = right[numeric].mean().item()
        return loss.mean()

    def _box_prompted(self, batch: Batch, features: ImageFeatures, metrics: dict[str, float]) -> torch.Tensor:
        few = features.embedding.shape[0]
        prompts = self.model.segmenter.box_prompts(batch.boxes[:few] * self.model.config.image.segmenter_size)
        logits, score = self.model.segmenter.decode(features, prompts)
        targets = _coverage(batch.instances[:few], batch.box_owners[:few, :, None])
        return self._mask_loss(logits.flatten(0, 1), score.flatten(), targets.flatten(0, 1), metrics, "boxes")

    def _context_prompted(
        self, batch: Batch, text: PackedText, hidden: torch.Tensor, features: ImageFeatures,
        metrics: dict[str, float],
    ) -> torch.Tensor:  # fmt: skip
        few = features.embedding.shape[0]
        rows, columns = self._query_slots(text)
        read = hidden[rows, columns].view(-1, self.model.context_module().num_queries, hidden.shape[-1])
        prompts = self.model.context_module()(read.float())[:, 0]
        asked = text.queries >= 0
        # A box can locate one target. It cannot locate several, and an absent object has no location.
        single = ((batch.targets > 0).sum(-1) == 1)[asked]
        located = self.heads.prompt_loss(prompts[single], batch.target_boxes[asked][single])
        grid = prompts.new_zeros(*asked.shape, prompts.shape[-1])
        grid = grid.masked_scatter(asked[..., None], prompts)
        logits, score = self.model.decode(features, grid[:few])
        kept = asked[:few]
        targets = _coverage(batch.instances[:few], batch.targets[:few])
        loss = self._mask_loss(logits[kept], score[kept], targets[kept], metrics, "context")
        return loss + 4 * self.config.dense_weight * located

    def _mask_loss(
        self, logits: torch.Tensor, score: torch.Tensor, targets: torch.Tensor,
        metrics: dict[str, float], name: str,
    ) -> torch.Tensor:  # fmt: skip
        logits = F.interpolate(logits[:, None].float(), size=(_MASK_SIDE,) * 2, mode="bilinear")[:, 0]
        iou = mask_iou(logits.detach(), targets)
        metrics[f"{name}/iou"] = iou.mean().item()
        return mask_loss(logits, targets) + F.mse_loss(score.float(), iou)


def _coverage(instances: torch.Tensor, owners: torch.Tensor) -> torch.Tensor:
    """Return the share of each cell that belongs to the owners, ``(B, K, 128, 128)``.

    Args:
        instances: Instance maps, ``(B, S, S)``.
        owners: Object indices, ``(B, K, T)``; 0 is no owner.
    """
    owners = torch.where(owners > 0, owners, -1)
    masks = (instances[:, None, None] == owners[..., None, None]).any(dim=2).float()
    return F.adaptive_avg_pool2d(masks, _MASK_SIDE)


@dataclass(frozen=True)
class _Part:
    plan: BatchPlan
    with_queries: bool


def part_of(step: int, config: SuperviseConfig) -> _Part:
    """Return what ``step`` trains on."""
    speaks, full = step >= config.language_from, step >= config.full_from
    plan = BatchPlan(
        images=config.images // (config.processes * config.accumulate),
        expressions=config.expressions if speaks else 0,
        short=not full,
        simple_share=config.simple_share,
        box_prompts=max(1, config.box_prompts // 2) if full else config.box_prompts,
        unknown_words=config.unknown_words if step >= config.unknown_from else 0.0,
        all_share=config.all_share if full else 0.0,
        none_share=config.none_share if full else 0.0,
        hard_share=config.hard_share if full else 0.0,
        fast_share=config.fast_share if full else 0.0,
    )
    return _Part(plan, with_queries=full)


class Supervision(Task):
    """Supervised task: Muon for hidden matrices of the transformers, AdamW for the rest."""

    program = "training.supervise"
    shown = ("loss/language", "language/number_accuracy", "boxes/iou", "context/iou")
    find_unused_parameters = True  # the first part of the curriculum does not use the language model

    def __init__(self, config: SuperviseConfig) -> None:
        """Build the model and open the training scenes.

        Raises:
            ValueError: The images of a step cannot be divided evenly, or there are too few scenes.
        """
        shares = config.processes * config.accumulate
        if config.images % shares or config.segmenter_images % shares:
            raise ValueError(
                f"images ({config.images}) and segmenter_images ({config.segmenter_images}) must be "
                f"multiples of processes * accumulate ({config.processes} * {config.accumulate})"
            )
        self.config = config
        self.model, self.tokenizer = build_nano(config.seed)
        if config.start_from:
            inherit(self.model, self.tokenizer, find_model(config.start_from))
        self.module = SupervisedLoss(self.model, self.tokenizer, config)
        self._maker = BatchMaker(TabletopShards(config.data), config.scenes, self.model, self.tokenizer)

    @property
    def evaluate_from(self) -> int:
        return self.config.full_from

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        config, reasoner = self.config, self.model.reasoner.model
        blocks = [*reasoner.visual.blocks, reasoner.visual.merger, *reasoner.language_model.layers]
        matrices = [p for block in blocks for p in block.parameters() if p.ndim == 2]
        chosen = {id(p) for p in matrices}
        others = [p for p in self.module.parameters() if id(p) not in chosen]
        muon = torch.optim.Muon(
            matrices, lr=config.muon_lr, weight_decay=0.05, momentum=0.95, adjust_lr_fn="match_rms_adamw"
        )
        adam = torch.optim.AdamW(
            [
                {"params": [p for p in others if p.ndim > 1], "weight_decay": config.weight_decay},
                {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
            ],
            lr=config.adam_lr,
            betas=(0.9, 0.98),
        )
        return {"adam": adam, "muon": muon}

    def loss(self, wrapped: nn.Module, turn: Turn) -> tuple[torch.Tensor, dict[str, float]]:
        part = part_of(turn.step, self.config)
        batch = self._maker.batch(self.config.seed, turn.step, turn.share, part.plan)
        return wrapped(to_device(batch, self.model.device), part.with_queries)


def main(arguments: list[str] | None = None) -> int:
    return command_line("training.supervise", __doc__, SuperviseConfig, Supervision, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
