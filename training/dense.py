"""Dense auxiliary supervision from instance masks, which trains the vision tower before language can.

Nothing in this module is exported; it exists only during training.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from lens_ros.model.images import MERGE, PATCH, merge_order
from lens_ros.model.network import LensModel
from lens_ros.model.sam2 import ImageFeatures
from lens_ros.simulation.catalog import CATEGORIES, COLORS
from lens_ros.simulation.scene import SceneObject
from training.losses import soft_number_labels
from training.nano import number_tokens

_BACKGROUND = len(CATEGORIES)
_PATCH_SHARE, _TOKEN_SHARE = 0.3, 0.1  # share of a cell that an object must cover to own it


@dataclass(frozen=True)
class DenseLabels:
    """Labels of the object that owns each cell.

    Attributes:
        patch_category: Category index per patch, ``(B, N)`` in merge order; ``len(CATEGORIES)`` is
            background.
        patch_color: Color index per patch, ``(B, N)`` in merge order; -1 for background.
        token_category: Category index per visual token, ``(B, N/4)`` row-major.
        token_color: Color index per visual token, ``(B, N/4)`` row-major.
        boxes: Box of the owner of each visual token, ``(B, N/4, 4)``, in fractions of the image.
        owner_box: Box of the owner of each cell, ``(B, 4, s, s)``, at the segmenter's stride 4.
        owned: Whether an object owns the cell, ``(B, s, s)``, at the segmenter's stride 4.
    """

    patch_category: torch.Tensor
    patch_color: torch.Tensor
    token_category: torch.Tensor
    token_color: torch.Tensor
    boxes: torch.Tensor
    owner_box: torch.Tensor
    owned: torch.Tensor


def dense_labels(
    instances: list[np.ndarray], objects: list[tuple[SceneObject, ...]], reasoner_size: int
) -> DenseLabels:
    """Return the labels of a batch.

    Args:
        instances: Instance maps, ``(S, S)`` uint8, squashed to a square.
        objects: The objects of each image. Their boxes are computed from the instance maps by
            :func:`fraction_box`, as fractions of the image.
        reasoner_size: Side of the reasoner's image in pixels.
    """
    per_image = [_label(i, o, reasoner_size) for i, o in zip(instances, objects, strict=True)]
    return DenseLabels(*(torch.from_numpy(np.stack(column)) for column in zip(*per_image, strict=True)))


def fraction_box(instances: np.ndarray, index: int) -> tuple[float, float, float, float]:
    """Return the box of one object's pixels in fractions of the image, zeros if it has none."""
    mask = instances == index
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return 0.0, 0.0, 0.0, 0.0
    height, width = instances.shape
    return cols[0] / width, rows[0] / height, (cols[-1] + 1) / width, (rows[-1] + 1) / height


def _label(
    instances: np.ndarray, objects: tuple[SceneObject, ...], reasoner_size: int
) -> tuple[np.ndarray, ...]:
    category = np.array([*(CATEGORIES.index(o.category) for o in objects), _BACKGROUND])
    color = np.array([*(COLORS.index(o.color) for o in objects), -1])
    boxes = np.array([*(fraction_box(instances, o.index) for o in objects), (0.0,) * 4], dtype=np.float32)
    small = cv2.resize(instances, (reasoner_size, reasoner_size), interpolation=cv2.INTER_NEAREST)
    masks = np.stack([small == o.index for o in objects]).astype(np.float32)
    patch = merge_order(torch.from_numpy(_owner(masks, PATCH, _PATCH_SHARE))).numpy()
    token = _owner(masks, PATCH * MERGE, _TOKEN_SHARE).reshape(-1)
    fine = instances[2::4, 2::4].astype(np.int64) - 1  # index -1 selects the background row
    return (category[patch], color[patch], category[token], color[token], boxes[token],
            boxes[fine].transpose(2, 0, 1), (fine >= 0).astype(np.float32))  # fmt: skip


def _owner(masks: np.ndarray, cell: int, share: float) -> np.ndarray:
    """Map ``(n, S, S)`` masks to ``(S/cell, S/cell)`` int64: the object that covers most of a cell, or -1."""
    count, side, _ = masks.shape
    cover = masks.reshape(count, side // cell, cell, side // cell, cell).mean(axis=(2, 4))
    return np.where(cover.max(axis=0) > share, cover.argmax(axis=0), -1)


class DenseHeads(nn.Module):
    """Heads on the vision tower and the segmenter's encoder, and losses that tie visual tokens to words.

    The ties matter most: a visual token must predict, through the language model's own embedding, the words
    for its category and color and the numbers of its centre. Without them grounding was not learned from the
    language loss alone.
    """

    def __init__(self, model: LensModel, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        patch_width = model.reasoner.config.vision_config.hidden_size
        classes = len(CATEGORIES) + 1
        self.patch = nn.Linear(patch_width, classes + len(COLORS))
        self.token = nn.Sequential(nn.LayerNorm(model.width), nn.Linear(model.width, 8))
        self.words = nn.ModuleList(nn.Linear(model.width, model.width) for _ in range(4))
        self.pixel = nn.Conv2d(model.segmenter.prompt_width // 8, 5, 1)
        self.prompt_box = nn.Linear(model.segmenter.prompt_width, 4)
        self.category_ids = [tokenizer.convert_tokens_to_ids(c) for c in CATEGORIES]
        self.color_ids = [tokenizer.convert_tokens_to_ids(c) for c in COLORS]
        self.first_number, self.numbers = number_tokens(tokenizer)
        weight = torch.ones(classes)
        weight[_BACKGROUND] = 0.3
        self.register_buffer("class_weight", weight, persistent=False)

    def vision_loss(
        self, model: LensModel, patches: torch.Tensor, tokens: torch.Tensor, labels: DenseLabels
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the loss of the reasoner's vision tower on the output of :meth:`LensModel.see`."""
        classes = len(CATEGORIES) + 1
        patch = self.patch(patches).float()
        loss = F.cross_entropy(
            patch[..., :classes].flatten(0, 1), labels.patch_category.flatten(), weight=self.class_weight
        )
        loss = loss + 0.5 * F.cross_entropy(
            patch[..., classes:].flatten(0, 1), labels.patch_color.flatten(), ignore_index=-1
        )
        owned = labels.token_category != _BACKGROUND
        seen, box = tokens[owned].float(), labels.boxes[owned]
        predicted = self.token(tokens)[owned].float()
        offset = (box - self._cell_centers(tokens.shape[1])[owned.nonzero()[:, 1]]) * 2
        loss = loss + 3 * (predicted[:, :4] - offset).abs().mean()
        loss = loss + 3 * (predicted[:, 4:].sigmoid() - box).abs().mean()
        return self._vocabulary_loss(model, seen, box, labels, owned, loss)

    def _vocabulary_loss(
        self, model: LensModel, seen: torch.Tensor, box: torch.Tensor, labels: DenseLabels,
        owned: torch.Tensor, loss: torch.Tensor,
    ) -> tuple[torch.Tensor, dict[str, float]]:  # fmt: skip
        table = model.language_model.embed_tokens.weight
        said = [F.rms_norm(word(seen).float(), (seen.shape[-1],)) for word in self.words]
        category = said[0] @ table[self.category_ids].T
        color = said[1] @ table[self.color_ids].T
        loss = loss + F.cross_entropy(category, labels.token_category[owned])
        loss = loss + F.cross_entropy(color, labels.token_color[owned])
        numbers = table[self.first_number : self.first_number + self.numbers]
        center = (box[:, :2] + box[:, 2:]) / 2 * model.config.image.reasoner_size
        for axis in (0, 1):
            log_probability = F.log_softmax(said[2 + axis] @ numbers.T, dim=-1)
            target = soft_number_labels(center[:, axis : axis + 1], self.numbers, sigma=2.0)
            loss = loss - 0.4 * (target * log_probability).sum(dim=1).mean()
        right = (category.argmax(-1) == labels.token_category[owned]).float().mean()
        return loss, {"dense/word_accuracy": right.item()}

    def segmenter_loss(self, features: ImageFeatures, labels: DenseLabels, images: int) -> torch.Tensor:
        """Return the loss of foreground and box offsets at the segmenter's finest level.

        Only the first ``images`` images are used.
        """
        predicted = self.pixel(features.high_resolution[0]).float()
        owned, box = labels.owned[:images], labels.owner_box[:images]
        side = owned.shape[-1]
        axis = (torch.arange(side, device=owned.device) + 0.5) / side
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        offset = (box - torch.stack([x, y, x, y])) * 2
        weight = owned.new_tensor(3.0)
        loss = F.binary_cross_entropy_with_logits(predicted[:, 0], owned, pos_weight=weight)
        inside = owned.bool()[:, None].expand(-1, 4, -1, -1)
        return loss + 4 * (predicted[:, 1:] - offset)[inside].abs().mean()

    def prompt_loss(self, prompts: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """Return the L1 loss of boxes predicted from context prompts, so that prompts encode positions.

        Args:
            prompts: Context prompts, ``(N, C)``.
            boxes: True boxes, ``(N, 4)``, in fractions of the image.

        Returns:
            Scalar loss, 0 for no prompts.
        """
        return (self.prompt_box(prompts).float().sigmoid() - boxes).abs().sum() / max(1, boxes.numel())

    def _cell_centers(self, cells: int) -> torch.Tensor:
        side = int(cells**0.5)
        index = torch.arange(cells)
        x, y = (index % side + 0.5) / side, (index // side + 0.5) / side
        return torch.stack([x, y, x, y], dim=-1).to(self.class_weight.device)
