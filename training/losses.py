"""Loss functions, all pure."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

SOFT_SIGMA = 1.5  # standard deviation of the soft labels of number tokens, in units of the number


def mask_loss(logits: torch.Tensor, target: torch.Tensor, positive_weight: float = 4.0) -> torch.Tensor:
    """Return BCE + dice, weighted for a model trained from scratch, at the resolution of the logits.

    :func:`segmentation_loss` is the same loss as in LENS.

    Args:
        logits: ``(N, h, w)``.
        target: ``(N, h, w)`` float in 0..1, the share of each cell that the object covers.
        positive_weight: Weight of the object's pixels in the BCE: tabletop objects cover a few percent of an
            image.

    Returns:
        Scalar, mean over masks.
    """
    logits = logits.float()
    weight = logits.new_tensor(positive_weight)
    bce = F.binary_cross_entropy_with_logits(logits, target, pos_weight=weight)
    probability = logits.sigmoid()
    overlap = (probability * target).sum(dim=(-2, -1))
    total = probability.sum(dim=(-2, -1)) + target.sum(dim=(-2, -1))
    dice = 1 - (2 * overlap + 1) / (total + 1)
    return 2 * bce + 1.5 * dice.mean()


def segmentation_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return BCE + dice, the segment-level loss of both stages of LENS (``sam_loss.py``).

    Computed at the resolution of the true mask. BCE is the mean over pixels, dice is ``1 - (2 sum(p g) + 1) /
    (sum(p) + sum(g) + 1)``.

    Args:
        logits: ``(N, h, w)``, any float type, with gradient.
        target: ``(N, H, W)`` bool or float in 0..1.

    Returns:
        ``(N,)`` float32, one per mask. The trainer averages them, because images differ in size.
    """
    target = target.float()
    logits = upsampled(logits, target.shape[-2:])
    bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(dim=(-2, -1))
    probability = logits.sigmoid()
    overlap = (probability * target).sum(dim=(-2, -1))
    total = probability.sum(dim=(-2, -1)) + target.sum(dim=(-2, -1))
    return bce + 1 - (2 * overlap + 1) / (total + 1)


def upsampled(logits: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Upsample ``(N, h, w)`` bilinearly to ``(N, *size)`` float32, as LENS does.

    Pixel areas are aligned, not corners.
    """
    return F.interpolate(logits[:, None].float(), tuple(size), mode="bilinear", align_corners=False)[:, 0]


def mask_iou(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the IoU ``(N,)`` of ``logits > 0`` and ``target > 0.5``, both ``(N, h, w)``.

    It is 1 where both are empty.
    """
    predicted, true = logits > 0, target > 0.5
    union = (predicted | true).sum(dim=(-2, -1))
    iou = (predicted & true).sum(dim=(-2, -1)) / union.clamp_min(1)
    return iou.masked_fill(union == 0, 1.0)


def language_loss(
    logits: torch.Tensor, labels: torch.Tensor, first_number: int, numbers: int
) -> torch.Tensor:
    """Return cross-entropy over tokens, with Gaussian soft labels for numbers: 127 for 128 is nearly right.

    Args:
        logits: ``(N, V)``.
        labels: ``(N,)`` int64.
        first_number: Token id of the number 0.
        numbers: Number of number tokens; ids ``first_number .. first_number + numbers - 1`` are 0, 1, 2, ...

    Returns:
        ``(N,)``.
    """
    log_probability = F.log_softmax(logits.float(), dim=-1)
    exact = -log_probability.gather(1, labels[:, None])[:, 0]
    value = (labels - first_number)[:, None].float()
    number_part = log_probability[:, first_number : first_number + numbers]
    soft = -(soft_number_labels(value, numbers) * number_part).sum(dim=1)
    is_number = (labels >= first_number) & (labels < first_number + numbers)
    return torch.where(is_number, soft, exact)


def soft_number_labels(value: torch.Tensor, numbers: int, sigma: float = SOFT_SIGMA) -> torch.Tensor:
    """Turn ``value`` ``(N, 1)`` into a distribution ``(N, numbers)`` around it."""
    candidates = torch.arange(numbers, device=value.device)
    density = torch.exp(-0.5 * ((candidates - value) / sigma) ** 2)
    return density / density.sum(dim=1, keepdim=True).clamp_min(1e-6)
