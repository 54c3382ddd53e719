"""The public API without ROS: an image and an instruction in, masks and reasoning out."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from transformers import PreTrainedTokenizerFast

from lens_ros.instances import Instance, one_each, shared_out, why_nothing, without_specks
from lens_ros.model import prompts
from lens_ros.model.answers import Answer, extent, parse_answer, tidy
from lens_ros.model.checkpoint import find_model, load_model
from lens_ros.model.config import Protocol
from lens_ros.model.generation import GREEDY, GenerationCancelled, Sampling
from lens_ros.model.images import reasoner_picture, segmenter_boxes, segmenter_picture, upsample, visual_grid
from lens_ros.model.network import LensModel, Thought, View

MAX_INSTRUCTION = 1000  # characters
MIN_SIDE, MAX_SIDE = 16, 16384  # pixels


class ImageError(ValueError):
    """An image that cannot be segmented; the message says what was expected."""


class InstructionError(ValueError):
    """An instruction that cannot be followed; the message says what was expected."""


class Cancelled(Exception):
    """Segmentation was stopped by the caller's ``cancelled()``."""


@dataclass(frozen=True)
class Segmentation:
    """The answer to one instruction on one image.

    Attributes:
        mask: ``(H, W)`` bool, union of the accepted instances.
        reasoning: the chain of thought.
        answer: all that the reasoner wrote, verbatim.
        well_formed: the answer had the form that it was asked to have.
        reason: ``""``, or why there is no accepted instance.
        preprocess_ms, reason_ms, decode_ms: durations in milliseconds; instructions that were answered
            together share them.
        tokens: how many the reasoner wrote.
        unchecked_mask: ``(H, W)`` bool, what the segmenter made of the context prompt, boxes or no boxes:
            what the paper's tables count, not for acting upon. None where boxes are the prompt.
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
    unchecked_mask: np.ndarray | None = None


@dataclass(frozen=True)
class SeenImage:
    """An image that a :class:`Lens` has looked at; ask about it as often as you like.

    Attributes:
        size: height and width of the image in pixels.
        picture_size: the same of what the reasoner sees of it.
    """

    view: View
    size: tuple[int, int]
    picture_size: tuple[int, int]
    preprocess_ms: float


class Lens:
    """Language-driven segmentation with a loaded model. Not thread-safe: one call at a time."""

    def __init__(self, model: LensModel, tokenizer: PreTrainedTokenizerFast) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.model_id = model.config.name

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path = "lens-nano",
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        protocol: Protocol | None = None,
    ) -> Lens:
        """Loads a model by name (``"lens-nano"`` comes with the package) or from a folder.

        Args:
            protocol: how images are resized, if not as the model's configuration says
                (:class:`~lens_ros.model.config.ImageConfig`).

        Raises:
            CheckpointError: the folder is absent, incomplete or damaged.
        """
        model, tokenizer = load_model(find_model(name_or_path), dtype=dtype)
        if protocol is not None:
            image = dataclasses.replace(model.config.image, protocol=protocol)
            model.config = dataclasses.replace(model.config, image=image)
        return cls(model.to(device), tokenizer)

    def look(self, image: np.ndarray | Image.Image | str | Path) -> SeenImage:
        """Takes in an image, so that several instructions on it share the work that it costs.

        Args:
            image: ``(H, W, 3)`` uint8 RGB, a PIL image, or the path of a picture.

        Raises:
            ImageError: unusable input.
        """
        rgb = as_rgb(image)
        started = time.perf_counter()
        config = self.model.config.image
        try:
            picture = reasoner_picture(rgb, config)
        except ValueError as error:
            raise ImageError(f"the image is {rgb.shape[1]}x{rgb.shape[0]} pixels: {error}") from error
        rows, cols = visual_grid(*picture.shape[:2])
        prefix = prompts.image_prefix(rows * cols, self.model.config.wording)
        view = self.model.look(
            self._tensor(picture), self._tensor(segmenter_picture(rgb, config)), self._encode(prefix)
        )
        elapsed = 1e3 * (time.perf_counter() - started)
        return SeenImage(view, rgb.shape[:2], picture.shape[:2], elapsed)

    def segment(
        self,
        image: SeenImage | np.ndarray | Image.Image | str | Path,
        instruction: str,
        *,
        think: bool | None = None,
        sampling: Sampling = GREEDY,
        on_text: Callable[[str], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
        max_new_tokens: int = 256,
    ) -> Segmentation:
        """Finds what ``instruction`` names.

        Args:
            image: ``(H, W, 3)`` uint8 RGB, a PIL image, the path of a picture, or what :meth:`look` gave.
            instruction: 1 to 1000 characters.
            think: whether to reason in words before the boxes; None for the model's own way. False is
                faster.
            on_text: called after each token with the reasoning so far, on the calling thread.
            cancelled: asked before each token; true stops within one token.

        Raises:
            ImageError, InstructionError: unusable input.
            Cancelled: ``cancelled()`` was true.
        """
        return self.segment_all(
            image,
            [instruction],
            think=think,
            sampling=sampling,
            on_text=None if on_text is None else lambda _, text: on_text(text),
            cancelled=cancelled,
            max_new_tokens=max_new_tokens,
        )[0]

    @torch.inference_mode()
    def segment_all(
        self,
        image: SeenImage | np.ndarray | Image.Image | str | Path,
        instructions: Sequence[str],
        *,
        think: bool | None = None,
        sampling: Sampling = GREEDY,
        on_text: Callable[[int, str], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
        max_new_tokens: int = 256,
    ) -> list[Segmentation]:
        """Follows several instructions on one image together: it is encoded once, the answers are written as
        one batch. Arguments as for :meth:`segment`; ``on_text`` is also told which instruction it is.

        Raises:
            ImageError, InstructionError: unusable input; nothing was done.
            Cancelled: ``cancelled()`` was true.
        """
        asked = [check_instruction(instruction) for instruction in instructions]
        seen = image if isinstance(image, SeenImage) else self.look(image)
        if not asked:
            return []
        config = self.model.config
        think = config.think if think is None else think
        opening = prompts.opening(config.wording, think=think)
        tagged = think or bool(opening)  # the paper's plain question asks for no tags
        questions = [prompts.question(text, config.wording, think=think) + opening for text in asked]
        started = time.perf_counter()
        try:
            thoughts = self.model.reason(
                seen.view,
                [self._encode(question) for question in questions],
                end_token=self.tokenizer.eos_token_id,
                pad_token=self.tokenizer.pad_token_id,
                max_new_tokens=max_new_tokens,
                sampling=sampling,
                on_token=None
                if on_text is None
                else lambda row, ids: on_text(row, tidy_reasoning(opening + self._text(ids))),
                cancelled=cancelled,
            )
        except GenerationCancelled as error:
            raise Cancelled(f"stopped while reasoning about {', '.join(map(repr, asked))}") from error
        reasoned = time.perf_counter()
        limits = extent(config.coordinates, *reversed(seen.picture_size))
        texts = [opening + self._text(thought.token_ids) for thought in thoughts]
        answers = [parse_answer(text, limits) for text in texts]
        found = self._found(seen, thoughts, answers)
        decoded = time.perf_counter()
        return [
            Segmentation(
                instruction=instruction,
                instances=instances,
                mask=_union(instances, seen.size),
                reasoning=answer.rationale,
                answer=text,
                well_formed=answer.well_formed and ("<answer>" in text or not tagged),
                reason=why_nothing(answer, instances),
                preprocess_ms=seen.preprocess_ms,
                reason_ms=1e3 * (reasoned - started),
                decode_ms=1e3 * (decoded - reasoned),
                tokens=len(thought.token_ids),
                model=self.model_id,
                unchecked_mask=unchecked,
            )
            for instruction, text, answer, thought, (instances, unchecked) in zip(
                asked, texts, answers, thoughts, found, strict=True
            )
        ]

    def _found(
        self, seen: SeenImage, thoughts: Sequence[Thought], answers: Sequence[Answer]
    ) -> list[tuple[tuple[Instance, ...], np.ndarray | None]]:
        """Instances, and the context prompt's mask, per answer."""
        if self.model.context is None:
            return [(self._box_prompted(seen, answer), None) for answer in answers]
        prompt = torch.stack([t.prompt for t in thoughts if t.prompt is not None], dim=1)  # (1, B, C)
        logits, scores = self.model.decode(seen.view.features, prompt)
        masks = self._masks(logits[0], seen.size)
        return [
            (shared_out(mask, float(score), answer.boxes), mask)
            for mask, score, answer in zip(masks, scores[0], answers, strict=True)
        ]

    def _box_prompted(self, seen: SeenImage, answer: Answer) -> tuple[Instance, ...]:
        if not answer.boxes:
            return ()
        fractions = torch.tensor([[(b.x1, b.y1, b.x2, b.y2) for b in answer.boxes]], device=self.model.device)
        boxes = segmenter_boxes(fractions, seen.size, self.model.config.image)
        segmenter = self.model.segmenter
        logits, scores = segmenter.decode(seen.view.features, segmenter.box_prompts(boxes))
        return one_each(self._masks(logits[0], seen.size), scores[0].tolist(), answer.boxes)

    def _masks(self, logits: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
        """``(N, s, s)`` logits to ``(N, H, W)`` bool."""
        masks = (upsample(logits, size, self.model.config.image) > 0).cpu().numpy()
        return np.stack([without_specks(mask, self.model.config.speck_share) for mask in masks])

    def _tensor(self, rgb: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.array(rgb))[None].to(self.model.device)

    def _encode(self, text: str) -> torch.Tensor:
        return torch.tensor(self.tokenizer.encode(text, add_special_tokens=False), device=self.model.device)

    def _text(self, token_ids: list[int]) -> str:
        return self.tokenizer.decode(token_ids)


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
    return tidy(text.split("</think>")[0]) if "<think>" in text else ""


def _union(instances: Sequence[Instance], size: tuple[int, int]) -> np.ndarray:
    """``(H, W)`` bool: the pixels of all accepted instances."""
    accepted = [instance.mask for instance in instances if not instance.rejected]
    return np.logical_or.reduce(accepted) if accepted else np.zeros(size, dtype=bool)
