"""Compute log-probabilities of completions AND their masks in one forward pass.

Everything that a prompt's G completions share is computed once: both image encodings, and the language model
over the prompt, whose keys and values carry gradients into all G continuations. The language head sees
completion positions only. The numbers, loss and gradients are those of G full copies.

Shape suffixes of local variables: B images with a prompt each, G completions of a prompt, N = B * G, T tokens
of a completion, Q context queries, L = T + Q, H hidden size, C width of a prompt for the segmenter.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from lens_ros.model.images import visual_grid
from lens_ros.model.kv_cache import Reading
from lens_ros.model.network import LensModel
from lens_ros.model.positions import padded_mrope_positions

# Of the segmenter. The last three belong to masks that are computed, but dropped in training mode: their
# gradients are zeros, with which weight decay would wear them down.
_UNREACHED = (
    "prompt_encoder.",
    "mask_decoder.pred_obj_score_head.",
    *(f"mask_decoder.output_hypernetworks_mlps.{mask}." for mask in (1, 2, 3)),
)


@dataclass(frozen=True)
class Completions:
    """B images with a prompt each, and G completions of every prompt.

    Pictures of different sizes do not fit into one batch: give them in several, and accumulate gradients.

    Attributes:
        reasoner_images: ``(B, h, w, 3)`` uint8, made by :func:`~lens_ros.model.images.reasoner_picture`.
        segmenter_images: ``(B, s, s, 3)`` uint8, likewise.
        prompt_ids, prompt_mask: ``(B, P)`` int64, image placeholders included; padding (mask 0) at the left.
        completion_ids, completion_mask: ``(B, G, T)`` int64, the token that ends a completion included;
            padding (mask 0) at the right. :class:`~lens_ros.model.generation.Continuation` has this form.

    Raises:
        ValueError: shapes do not fit each other, or padding lies on the wrong side.
    """

    reasoner_images: torch.Tensor
    segmenter_images: torch.Tensor
    prompt_ids: torch.Tensor
    prompt_mask: torch.Tensor
    completion_ids: torch.Tensor
    completion_mask: torch.Tensor

    def __post_init__(self) -> None:
        rows = {len(t) for t in vars(self).values()}
        for ids, mask, axes in (
            (self.prompt_ids, self.prompt_mask, "(B, P)"),
            (self.completion_ids, self.completion_mask, "(B, G, T)"),
        ):
            if ids.shape != mask.shape or ids.ndim != axes.count(",") + 1 or len(rows) != 1:
                raise ValueError(
                    f"ids {tuple(ids.shape)} and mask {tuple(mask.shape)} must both be {axes} for the "
                    f"{len(self.reasoner_images)} and {len(self.segmenter_images)} images"
                )
        if not bool(self.prompt_mask[:, -1].all()):
            raise ValueError("prompts must be padded at the left: their last token must stand last")
        if bool((self.completion_mask.diff(dim=-1) > 0).any()):
            raise ValueError("completions must be padded at the right, without gaps")

    @property
    def group(self) -> int:
        """G, completions per prompt."""
        return self.completion_ids.shape[1]

    def rows(self, indices: torch.Tensor) -> Completions:
        """Return some of the images with prompts and completions, without columns that are only padding."""
        taken = {name: tensor[indices] for name, tensor in vars(self).items()}
        longest = int(taken["completion_mask"].sum(-1).max())
        for name in ("completion_ids", "completion_mask"):
            taken[name] = taken[name][..., : max(1, longest)]
        return Completions(**taken)


class Judged(NamedTuple):
    """What the policy computes of :class:`Completions`.

    Tensors are float32; ``masks`` and ``iou`` have the decoder's dtype.

    Attributes:
        log_probs: ``(B, G, T)``, of each completion token given all before it, at temperature 1; 0 at
        padding. entropy: ``(B, G, T)``, in nats, of the distribution that each token was drawn from; without
            gradient; 0 at padding.
        masks: ``(B, G, s/4, s/4)`` logits; None if no masks were requested.
        iou: ``(B, G)``, the mask's predicted IoU; None likewise.
    """

    log_probs: torch.Tensor
    entropy: torch.Tensor
    masks: torch.Tensor | None
    iou: torch.Tensor | None


class Policy(nn.Module):
    """A :class:`~lens_ros.model.network.LensModel` with the one forward that training needs.

    Positions follow ``config.query_positions`` in the whole pass. ``"mrope"``, which everything trained here
    has, is what generation uses too: the policy's log-probabilities are those that the completions were drawn
    with. With ``"sequential"`` (released checkpoints) the whole pass counts plainly, as the paper trains:
    masks are the checkpoint's own, but the log-probabilities are not quite the generator's; compare such a
    policy with a reference of the same scheme only.

    Distributed training wraps the policy and calls the wrapper, once per backward pass. DDP needs no
    ``find_unused_parameters``, since parameters that this forward never reaches are frozen here (box, point
    and mask prompts, the object score, several masks per prompt) and every batch reaches the rest, provided
    that the loss depends on ``log_probs``, ``masks`` and ``iou`` alike: where an image has no mask to learn,
    multiply its share by zero; without a loss on ``iou``, freeze
    ``model.segmenter.sam.mask_decoder.iou_prediction_head``. FSDP may shard transformer blocks one by one;
    context module and segmenter belong to the root.
    """

    def __init__(self, model: LensModel) -> None:
        """Freeze what ``forward`` cannot reach; the caller freezes whatever else is to stay.

        Raises:
            ValueError: the model has no context module, so that its masks would not be differentiable.
        """
        super().__init__()
        model.context_module()
        self.model = model
        for name, parameter in model.segmenter.sam.named_parameters():
            if name.startswith(_UNREACHED) and not name.startswith("prompt_encoder.no_mask_embed."):
                parameter.requires_grad_(False)

    def forward(self, completions: Completions, with_masks: bool = True) -> Judged:
        """Evaluate the completions.

        Args:
            completions: images, prompts and completions.
            with_masks: False leaves out context queries and segmenter. For the reference policy, a frozen
                copy or :func:`without_adapters`, under ``torch.no_grad()``.

        Raises:
            ValueError: image tokens and images do not match, or gradient checkpointing is on in the language
            model.
        """
        model, group = self.model, completions.group
        if self.training and any(layer.gradient_checkpointing for layer in model.language_model.layers):
            raise ValueError(
                "gradient checkpointing switches off the language model's cache, which completions share "
                "their prompt through; enable it on model.reasoner.model.visual alone"
            )
        reading, last_BH = self.read_prompts(
            completions.reasoner_images, completions.prompt_ids, completions.prompt_mask
        )
        ids_NT, mask_NL = completions.completion_ids.flatten(0, 1), completions.completion_mask.flatten(0, 1)
        length = ids_NT.shape[1]
        embedded_NLH = model.language_model.embed_tokens(ids_NT)
        if with_masks:
            queries = model.context_module().learnable_query.to(embedded_NLH.dtype)
            queries_NQH = queries.expand(len(ids_NT), -1, -1)
            embedded_NLH = torch.cat([embedded_NLH, queries_NQH], dim=1)
            mask_NL = torch.cat([mask_NL, mask_NL.new_ones(queries_NQH.shape[:2])], dim=1)
        hidden_NLH = reading.fork(group).read(embedded_NLH, mask_NL)
        # What precedes a completion's first token is its prompt's last one.
        first_N1H = last_BH.repeat_interleave(group, dim=0)[:, None]
        before_NTH = torch.cat([first_N1H, hidden_NLH[:, : length - 1]], dim=1)
        log_probs, entropy = self._probabilities(before_NTH, completions)
        if not with_masks:
            return Judged(log_probs, entropy, None, None)
        prompts_NC = model.context_module()(hidden_NLH[:, length:])
        prompts_BGC = prompts_NC.view(len(completions.prompt_ids), group, -1)
        masks, iou = model.decode(model.encode_image(completions.segmenter_images), prompts_BGC)
        return Judged(log_probs, entropy, masks, iou)

    def read_prompts(
        self, images: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor
    ) -> tuple[Reading, torch.Tensor]:
        """Return the prompts in the cache, B rows, and the hidden states ``(B, H)`` of their last tokens.

        Arguments as in :class:`Completions`.
        """
        model = self.model
        positions = None  # counted
        if model.config.query_positions == "mrope":
            grids = [visual_grid(*images.shape[1:3])] * len(images)
            token = model.reasoner.config.image_token_id
            positions = padded_mrope_positions(ids, mask, token, grids)
        reading = Reading(model.language_model, rows=len(ids))
        embedded = model.embed(ids, model.see(images)[1].flatten(0, 1))
        return reading, reading.read(embedded, mask, positions)[:, -1]

    def _probabilities(
        self, before_NTH: torch.Tensor, completions: Completions
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return log-probabilities and entropies ``(B, G, T)``.

        ``before_NTH`` holds the final hidden states of the tokens before.
        """
        spoken = completions.completion_mask.bool()
        logits = self.model.reasoner.lm_head(before_NTH[spoken.flatten(0, 1)]).float()
        total = logits.logsumexp(-1)
        chosen = logits.gather(1, completions.completion_ids[spoken][:, None])[:, 0] - total
        with torch.no_grad():
            entropy = total - (logits.softmax(-1) * logits).sum(-1)
        zeros = chosen.new_zeros(spoken.shape)
        return zeros.masked_scatter(spoken, chosen), zeros.masked_scatter(spoken, entropy)


@contextmanager
def without_adapters(module: nn.Module) -> Iterator[None]:
    """Switch LoRA off (peft, injected into the layers).

    The policy is then the one that training began with, provided that only adapters were trained in the
    reasoner.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer  # optional

    layers = [layer for layer in module.modules() if isinstance(layer, BaseTunerLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
