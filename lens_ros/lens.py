"""The public API without ROS: an image and an instruction in, masks and reasoning out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from lens_ros.model import prompts
from lens_ros.model.answers import Answer, Box, parse_answer, tidy
from lens_ros.model.checkpoint import find_model, load_model
from lens_ros.model.images import reasoner_grid, squash
from lens_ros.model.network import GenerationCancelled, LensModel

MAX_INSTRUCTION = 1000  # characters
MIN_SIDE, MAX_SIDE = 16, 16384  # pixels
MIN_CONSISTENCY = 0.3  # IoU of the answer's box and the mask's box below which an instance is rejected


class ImageError(ValueError):
    """An image that cannot be segmented; the message says what was expected."""


class InstructionError(ValueError):
    """An instruction that cannot be followed; the message says what was expected."""


class Cancelled(Exception):
    """Segmentation was stopped by the caller's ``cancelled()``."""


@dataclass(frozen=True)
class Instance:
    """One object that was found.

    Attributes:
        mask: ``(H, W)`` bool.
        box: ``x1, y1, x2, y2`` of the mask in pixels, ``x2``/``y2`` exclusive; the answer's box where the
            mask is empty.
        score: the segmenter's own estimate of the mask's IoU, 0..1.
        label: what the reasoner calls it, such as ``"gray cup"``.
        consistency: IoU of the answer's box and the mask's box, 0..1.
        rejected: ``""``, or why this mask must not be acted upon.
    """

    mask: np.ndarray
    box: tuple[float, float, float, float]
    score: float
    label: str
    consistency: float
    rejected: str = ""


@dataclass(frozen=True)
class Segmentation:
    """The answer to one instruction on one image.

    Attributes:
        mask: ``(H, W)`` bool, union of the accepted instances.
        reasoning: the chain of thought.
        answer: all that the reasoner wrote, verbatim.
        well_formed: the answer had the form that it was asked to have.
        reason: ``""``, or why there is no accepted instance.
        preprocess_ms, reason_ms, decode_ms: durations in milliseconds.
        tokens: how many the reasoner wrote.
    """

    instruction: str
    instances: tuple[Instance, ...]
    mask: np.ndarray
    reasoning: str
    answer: str
    well_formed: bool
    reason: str
    preprocess_ms: float
    reason_ms: float
    decode_ms: float
    tokens: int
    model: str


class Lens:
    """Language-driven segmentation with a loaded model. Not thread-safe: one call at a time."""

    def __init__(self, model: LensModel, tokenizer: PreTrainedTokenizerFast) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.model_id = model.config.name
        rows, cols = reasoner_grid(model.config.image)
        self._prefix = prompts.image_prefix(rows * cols)

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path = "lens-nano", *, device: str = "cpu") -> Lens:
        """Loads a model by name (``"lens-nano"`` comes with the package) or from a folder.

        Raises:
            CheckpointError: the folder is absent, incomplete or damaged.
        """
        model, tokenizer = load_model(find_model(name_or_path))
        return cls(model.to(device), tokenizer)

    @torch.inference_mode()
    def segment(
        self,
        image: np.ndarray | Image.Image | str | Path,
        instruction: str,
        *,
        on_text: Callable[[str], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
        max_new_tokens: int = 128,
    ) -> Segmentation:
        """Finds what ``instruction`` names.

        Args:
            image: ``(H, W, 3)`` uint8 RGB, a PIL image, or the path of a picture.
            instruction: 1 to 1000 characters.
            on_text: called after each token with the reasoning so far, on the calling thread.
            cancelled: asked before each token; true stops within one token.

        Raises:
            ImageError, InstructionError: unusable input.
            Cancelled: ``cancelled()`` was true.
        """
        rgb = as_rgb(image)
        instruction = check_instruction(instruction)
        started = time.perf_counter()
        reasoner_image = self._tensor(squash(rgb, self.model.config.image.reasoner_size))
        segmenter_image = self._tensor(squash(rgb, self.model.config.image.segmenter_size))
        input_ids = self._encode(self._prefix + prompts.question(instruction))
        prepared = time.perf_counter()
        try:
            thought = self.model.reason(
                reasoner_image,
                input_ids,
                end_token=self.tokenizer.eos_token_id,
                max_new_tokens=max_new_tokens,
                on_token=None if on_text is None else lambda ids: on_text(tidy_reasoning(self._text(ids))),
                cancelled=cancelled,
            )
        except GenerationCancelled as error:
            raise Cancelled(f"stopped while reasoning about '{instruction}'") from error
        reasoned = time.perf_counter()
        features = self.model.encode_image(segmenter_image)
        logits, score = self.model.decode(features, thought.prompt)
        mask = without_specks(_upsample(logits[0, 0], rgb.shape[:2]), self.model.config.speck_share)
        decoded = time.perf_counter()

        text = self._text(thought.token_ids)
        answer = parse_answer(text, self.model.config.image.reasoner_size)
        instances = _instances(answer, mask, float(score[0, 0]))
        accepted = [instance.mask for instance in instances if not instance.rejected]
        return Segmentation(
            instruction=instruction,
            instances=instances,
            mask=np.logical_or.reduce(accepted) if accepted else np.zeros(rgb.shape[:2], dtype=bool),
            reasoning=answer.rationale,
            answer=text,
            well_formed=answer.well_formed,
            reason="" if accepted else _why_nothing(answer, instances),
            preprocess_ms=1e3 * (prepared - started),
            reason_ms=1e3 * (reasoned - prepared),
            decode_ms=1e3 * (decoded - reasoned),
            tokens=len(thought.token_ids),
            model=self.model_id,
        )

    def _tensor(self, rgb: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(rgb))[None].to(self._device)

    def _encode(self, text: str) -> torch.Tensor:
        return torch.tensor(self.tokenizer.encode(text, add_special_tokens=False), device=self._device)

    def _text(self, token_ids: list[int]) -> str:
        return self.tokenizer.decode(token_ids)

    @property
    def _device(self) -> torch.device:
        return self.model.context.learnable_query.device


def as_rgb(image: np.ndarray | Image.Image | str | Path) -> np.ndarray:
    """``(H, W, 3)`` uint8 RGB of an array, a PIL image or a file.

    Raises:
        ImageError: it is none of these, or too small or large.
    """
    if isinstance(image, str | Path):
        try:
            with Image.open(image) as opened:
                image = opened.convert("RGB")
        except FileNotFoundError as error:
            raise ImageError(f"no such file: {image}. Give the path of a picture.") from error
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            raise ImageError(f"{image} is not a readable picture ({error}). PNG and JPEG work.") from error
    rgb = np.asarray(image.convert("RGB")) if isinstance(image, Image.Image) else image
    if not isinstance(rgb, np.ndarray) or rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        found = f"{rgb.dtype} {rgb.shape}" if isinstance(rgb, np.ndarray) else type(rgb).__name__
        raise ImageError(f"expected an RGB image as uint8 of shape (height, width, 3), got {found}")
    height, width = rgb.shape[:2]
    if not (MIN_SIDE <= height <= MAX_SIDE and MIN_SIDE <= width <= MAX_SIDE):
        raise ImageError(
            f"the image is {width}x{height} pixels; each side must have {MIN_SIDE} to {MAX_SIDE} pixels"
        )
    return rgb


def check_instruction(instruction: str) -> str:
    """The instruction without surrounding blanks, and with no text that reads as a special token.

    Raises:
        InstructionError: empty, not text, or longer than 1000 characters.
    """
    if not isinstance(instruction, str) or not instruction.strip():
        raise InstructionError("the instruction is empty; say what to look for, such as 'the red mug'")
    instruction = instruction.strip()
    if len(instruction) > MAX_INSTRUCTION:
        raise InstructionError(
            f"the instruction has {len(instruction)} characters; at most {MAX_INSTRUCTION} are read. "
            "Name the object in a sentence."
        )
    # Special tokens belong to the prompt's form, never to what a person says.
    return instruction.replace("<", "< ")


def tidy_reasoning(text: str) -> str:
    """The chain of thought in a possibly unfinished answer."""
    return tidy(text.split("</think>")[0])


def _upsample(logits: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """Low-resolution logits to a ``size`` bool mask, as the paper does: bilinear, then > 0."""
    full = F.interpolate(logits[None, None].float(), size=size, mode="bilinear", align_corners=False)
    return (full[0, 0] > 0).cpu().numpy()


def without_specks(mask: np.ndarray, share: float) -> np.ndarray:
    """``(H, W)`` bool without the connected parts (8 neighbours) smaller than ``share`` of the largest."""
    if share <= 0 or not mask.any():
        return mask
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA]
    areas[0] = 0  # the background
    return (areas >= share * areas.max())[labels] & mask


def _instances(answer: Answer, mask: np.ndarray, score: float) -> tuple[Instance, ...]:
    """One instance per box of the answer; several boxes share the mask out by nearest box centre."""
    height, width = mask.shape
    boxes = [(b.x1 * width, b.y1 * height, b.x2 * width, b.y2 * height) for b in answer.boxes]
    return tuple(
        _instance(part, box, score, found)
        for part, box, found in zip(_share(mask, boxes), boxes, answer.boxes, strict=True)
    )


def _share(mask: np.ndarray, boxes: list[tuple[float, float, float, float]]) -> list[np.ndarray]:
    if len(boxes) == 1:
        return [mask]
    y, x = np.nonzero(mask)
    distance = np.array([np.hypot(x - (x1 + x2) / 2, y - (y1 + y2) / 2) for x1, y1, x2, y2 in boxes])
    parts = [np.zeros_like(mask) for _ in boxes]
    if boxes and x.size:
        owner = distance.argmin(axis=0)
        for index, part in enumerate(parts):
            part[y[owner == index], x[owner == index]] = True
    return parts


def _instance(mask: np.ndarray, box: tuple[float, float, float, float], score: float, found: Box) -> Instance:
    if not mask.any():
        return Instance(mask, box, 0.0, found.label, 0.0, rejected="the segmenter found no pixels for it")
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    mask_box = (float(cols[0]), float(rows[0]), float(cols[-1] + 1), float(rows[-1] + 1))
    consistency = box_iou(box, mask_box)
    rejected = (
        ""
        if consistency >= MIN_CONSISTENCY
        else f"the answer's box and the mask disagree (IoU {consistency:.2f} < {MIN_CONSISTENCY})"
    )
    return Instance(mask, mask_box, score, found.label, consistency, rejected)


def box_iou(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    """Intersection over union of two ``x1, y1, x2, y2`` boxes; 0 where both are empty."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(0.0, width) * max(0.0, height)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    return overlap / union if union > 0 else 0.0


def _why_nothing(answer: Answer, instances: tuple[Instance, ...]) -> str:
    if instances:
        return "; ".join(instance.rejected for instance in instances)
    if answer.well_formed:
        return "the reasoner found nothing that fits the instruction"
    return "the reasoner's answer holds no readable box"
