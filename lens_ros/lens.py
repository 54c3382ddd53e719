"""The public API without ROS: an image and an instruction in, masks and reasoning out."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast

from lens_ros.choices import BackendChoice, Decoding, Precision, Quantization
from lens_ros.engine.backends import Engines, compiled, exchanged, open_engines
from lens_ros.engine.cache import EngineCache
from lens_ros.inputs import ImageError, as_rgb, check_device, check_instruction
from lens_ros.instances import (
    Instance,
    judged,
    least_score,
    one_each,
    shared_out,
    union,
    why_nothing,
    without_specks,
)
from lens_ros.model import prompts
from lens_ros.model.answer_parsing import ParsedAnswer, extent, parse_answer, tidy
from lens_ros.model.checkpoint import find_model, load_model
from lens_ros.model.config import Protocol
from lens_ros.model.generation import GREEDY, GenerationCancelled, Sampling
from lens_ros.model.images import (
    mask_prompts,
    reasoner_picture,
    segmenter_boxes,
    segmenter_picture,
    upsample,
    visual_grid,
)
from lens_ros.model.network import LensModel, Thought, View
from lens_ros.model.plain import plain_words
from lens_ros.model.quantized import place
from lens_ros.model.score_calibration import Certainty, certainty_of
from lens_ros.segmentation import Segmentation, not_asked


class Cancelled(Exception):
    """Segmentation was stopped by the caller's ``cancelled()``."""


@dataclass(frozen=True)
class SeenImage:
    """An image that a :class:`Lens` has looked at; ask about it as often as you like.

    Attributes:
        rgb: the image, ``(H, W, 3)`` uint8.
        picture_size: height and width, in pixels, of what the reasoner sees of it.
    """

    view: View
    rgb: np.ndarray
    picture_size: tuple[int, int]
    preprocess_ms: float

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image in pixels."""
        return self.rgb.shape[:2]


class Lens:
    """Language-driven segmentation with a loaded model. Not thread-safe: one call at a time.

    In the examples, ``picture`` is ``(480, 640, 3)`` uint8 RGB and shows a table with a red bottle.

    Example:
        >>> lens = Lens.from_pretrained("lens-nano")
    """

    def __init__(
        self,
        model: LensModel,
        tokenizer: PreTrainedTokenizerFast,
        *,
        decoding: Decoding = "dynamic",
        engines: Engines | None = None,
        folder: Path | None = None,
    ) -> None:
        """Wrap a model and its tokenizer.

        ``engines`` run the two halves of ``model.segmenter``, if given; ``folder`` is that of the model.
        """
        self.model = model
        self.engines = engines
        self.folder = folder
        self.tokenizer = tokenizer
        self.decoding = decoding
        self.model_id = model.config.name

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path = "lens-nano",
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        quantization: Quantization = "none",
        decoding: Decoding = "dynamic",
        protocol: Protocol | None = None,
        backend: BackendChoice = "auto",
        precision: Precision | None = None,
        engine_cache: Path | None = None,
    ) -> Lens:
        """Load a model by name (``"lens-nano"`` ships with the package) or from a folder.

        Args:
            name_or_path: name or folder.
            device: as torch names it.
            dtype: of everything that is not quantized.
            quantization: of the language model, ``"int8"`` or ``"int4"``, from a file next to the weights
                that ``lens quantize`` makes.
            decoding: how answers are generated, see :data:`~lens_ros.choices.Decoding`.
            protocol: how images are resized, if not as the model's configuration says
                (:class:`~lens_ros.model.config.ImageConfig`).
            backend: what runs the segmenter: ``"auto"`` takes the fastest whose engines are ready
                (:func:`~lens_ros.engine.backends.open_engines`; ``lens build-engine`` makes them) and torch
                if none are; a named one that cannot serve is replaced by torch, with a warning.
            precision: of the engines; None takes what passed the self-check.
            engine_cache: folder of the engines; None takes the user's.

        Raises:
            CheckpointError: there is no such model, or it is unusable.
            DeviceError: there is no such device.
        """
        check_device(device)
        folder = find_model(name_or_path)
        model, tokenizer = load_model(folder, dtype=dtype, quantization=quantization)
        engines = open_engines(
            folder,
            model.config,
            backend=backend,
            precision=precision,
            device=device,
            cache=EngineCache(engine_cache) if engine_cache else EngineCache(),
        )
        model.segmenter = compiled(model.segmenter, engines)
        if protocol is not None:
            image = dataclasses.replace(model.config.image, protocol=protocol)
            model.config = dataclasses.replace(model.config, image=image)
        return cls(place(model, device), tokenizer, decoding=decoding, engines=engines, folder=folder)

    def use(self, engines: Engines) -> None:
        """Run the segmenter on other engines from now on. Results of earlier :meth:`look` stay valid.

        Raises:
            CheckpointError: the model's folder is needed for that, and no longer usable.
        """
        assert self.folder is not None, "only a model that was loaded from a folder has engines"
        self.model.segmenter = exchanged(self.model.segmenter, engines, self.folder)
        self.engines = engines

    def look(self, image: np.ndarray | Image.Image | str | Path) -> SeenImage:
        """Encode an image, so that several instructions on it share that work.

        Args:
            image: ``(H, W, 3)`` uint8 RGB, a PIL image, or the path of a picture.

        Raises:
            ImageError: unusable input.

        Example:
            >>> seen = lens.look(picture)
            >>> [len(lens.segment(seen, text).instances) for text in ("the red bottle", "the laptop")]
            [1, 0]
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
        return SeenImage(view, rgb, picture.shape[:2], elapsed)

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
        score_threshold: float | None = None,
    ) -> Segmentation:
        """Find what ``instruction`` names.

        Args:
            image: ``(H, W, 3)`` uint8 RGB, a PIL image, the path of a picture, or the result of :meth:`look`.
            instruction: 1 to 1000 characters.
            think: whether to reason in words before the boxes; None for the model's own way. False is faster.
            sampling: how tokens are drawn.
            on_text: called after each token with the reasoning so far, on the calling thread.
            cancelled: asked before each token; true stops within one token.
            max_new_tokens: most tokens of an answer.
            score_threshold: 0..1, least score of an instance that may be acted upon; None for the model's own
                (:class:`~lens_ros.model.score_calibration.Calibration`; 0 if it has none). 0 accepts whatever
                its score.

        Raises:
            ImageError, InstructionError: unusable input.
            ValueError: ``score_threshold`` is not 0..1.
            Cancelled: ``cancelled()`` was true.

        Example:
            >>> answer = lens.segment(picture, "the red bottle")
            >>> [instance.label for instance in answer.instances], answer.mask.shape
            (['red bottle'], (480, 640))
        """
        return self.segment_all(
            image,
            [instruction],
            think=think,
            sampling=sampling,
            on_text=None if on_text is None else lambda _, text: on_text(text),
            cancelled=cancelled,
            max_new_tokens=max_new_tokens,
            score_threshold=score_threshold,
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
        on_decode: Callable[[], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
        max_new_tokens: int = 256,
        score_threshold: float | None = None,
    ) -> list[Segmentation]:
        """Follow several instructions on one image together.

        The image is encoded once, the answers are generated as one batch. Arguments are as for
        :meth:`segment`; ``on_text`` also gets the instruction's index. ``on_decode`` is called when all is
        generated, before it becomes masks; ``cancelled`` is asked there for the last time.

        Raises:
            ImageError, InstructionError: unusable input; nothing was done.
            ValueError: ``score_threshold`` is not 0..1; nothing was done.
            Cancelled: ``cancelled()`` was true.
        """
        threshold = least_score(self.model.config.calibration, score_threshold)
        asked = [check_instruction(instruction) for instruction in instructions]
        seen = image if isinstance(image, SeenImage) else self.look(image)
        objections = [self._objection(instruction) for instruction in asked]
        rows = [row for row, objection in enumerate(objections) if not objection]
        answered = self._answer(
            seen,
            [asked[row] for row in rows],
            think=think,
            sampling=sampling,
            on_text=None if on_text is None else lambda row, text: on_text(rows[row], text),
            on_decode=on_decode,
            cancelled=cancelled,
            max_new_tokens=max_new_tokens,
            score_threshold=score_threshold,
        )
        answers = iter(answered)
        refused = partial(
            not_asked, seen.size, seen.preprocess_ms, threshold, self.model_id, self.model.context is not None
        )
        return [
            refused(instruction, objection) if objection else next(answers)
            for instruction, objection in zip(asked, objections, strict=True)
        ]

    def _objection(self, instruction: str) -> str:
        """Return why the model cannot be asked for this, or the empty string."""
        subjects = self.model.config.subjects
        if subjects is None:
            return ""
        return subjects.objection(plain_words(instruction), self.tokenizer.get_vocab(), self.model_id)

    def _answer(
        self,
        seen: SeenImage,
        asked: Sequence[str],
        *,
        think: bool | None,
        sampling: Sampling,
        on_text: Callable[[int, str], None] | None,
        on_decode: Callable[[], None] | None,
        cancelled: Callable[[], bool] | None,
        max_new_tokens: int,
        score_threshold: float | None,
    ) -> list[Segmentation]:
        """Ask the model; arguments as for :meth:`segment_all`."""
        if not asked:
            return []
        threshold = least_score(self.model.config.calibration, score_threshold)
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
                decoding=self.decoding,
            )
        except GenerationCancelled as error:
            raise Cancelled(f"stopped while reasoning about {', '.join(map(repr, asked))}") from error
        reasoned = time.perf_counter()
        if on_decode is not None:
            on_decode()
        if cancelled is not None and cancelled():
            raise Cancelled(f"stopped before the masks of {', '.join(map(repr, asked))}")
        limits = extent(config.coordinates, *reversed(seen.picture_size))
        texts = [opening + self._text(thought.token_ids) for thought in thoughts]
        answers = [parse_answer(text, limits) for text in texts]
        found = [
            (
                tuple(judged(i, config.calibration, certainty, score_threshold) for i in instances),
                unchecked,
            )
            for (instances, unchecked), certainty in zip(
                self._found(seen, thoughts, answers), map(self.certainty, thoughts), strict=True
            )
        ]
        decoded = time.perf_counter()
        return [
            Segmentation(
                instruction=instruction,
                instances=instances,
                mask=union(instances, seen.size),
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
                score_threshold=threshold,
            )
            for instruction, text, answer, thought, (instances, unchecked) in zip(
                asked, texts, answers, thoughts, found, strict=True
            )
        ]

    def _found(
        self, seen: SeenImage, thoughts: Sequence[Thought], answers: Sequence[ParsedAnswer]
    ) -> list[tuple[tuple[Instance, ...], np.ndarray | None]]:
        """Return the instances and the context prompt's mask of each answer."""
        if self.model.context is None:
            return [(self._box_prompted(seen, answer), None) for answer in answers]
        prompt = torch.stack([t.prompt for t in thoughts if t.prompt is not None], dim=1)  # (1, B, C)
        logits, scores = self.model.decode(seen.view.features, prompt)
        masks = self._masks(logits[0], seen.size)
        return [
            (shared_out(mask, float(score), answer.boxes), mask)
            for mask, score, answer in zip(masks, scores[0], answers, strict=True)
        ]

    def _box_prompted(self, seen: SeenImage, answer: ParsedAnswer) -> tuple[Instance, ...]:
        height, width = seen.size
        boxes = [(b.x1 * width, b.y1 * height, b.x2 * width, b.y2 * height) for b in answer.boxes]
        masks, scores = self.decode_boxes(seen, boxes)
        return one_each(masks, scores, answer.boxes)

    @torch.inference_mode()
    def decode_boxes(
        self,
        seen: SeenImage,
        boxes: Sequence[tuple[float, float, float, float]],
        masks: Sequence[np.ndarray] | None = None,
    ) -> tuple[np.ndarray, list[float]]:
        """Run the segmenter alone, without any instruction: one mask per box.

        Args:
            seen: the image.
            boxes: ``x1, y1, x2, y2`` in pixels of the image.
            masks: ``(H, W)`` bool, a mask prompt for each box.

        Returns:
            masks ``(N, H, W)`` bool, and the IoU that the segmenter expects of each, 0..1.
        """
        if not boxes:
            return np.zeros((0, *seen.size), dtype=bool), []
        height, width = seen.size
        pixels = torch.tensor([list(boxes)], dtype=torch.float32, device=self.model.device)
        fractions = pixels / pixels.new_tensor([width, height, width, height])
        segmenter = self.model.segmenter
        prompts = segmenter.box_prompts(segmenter_boxes(fractions, seen.size, self.model.config.image))
        previous = None
        if masks is not None:
            previous = mask_prompts(masks, self.model.config.image)[None].to(self.model.device)
        logits, scores = segmenter.decode(seen.view.features, prompts, previous)
        return self._masks(logits[0], seen.size), scores[0].tolist()

    def certainty(self, thought: Thought) -> Certainty:
        """Return how sure the reasoner was of an answer."""
        tokens = self.tokenizer.convert_ids_to_tokens(thought.token_ids)
        return certainty_of([token or "" for token in tokens], thought.log_probs)  # ids may have no token

    def _masks(self, logits: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
        """Convert ``(N, s, s)`` logits to ``(N, H, W)`` bool."""
        masks = (upsample(logits, size, self.model.config.image) > 0).cpu().numpy()
        return np.stack([without_specks(mask, self.model.config.speck_share) for mask in masks])

    def _tensor(self, rgb: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.array(rgb))[None].to(self.model.device)

    def _encode(self, text: str) -> torch.Tensor:
        return torch.tensor(self.tokenizer.encode(text, add_special_tokens=False), device=self.model.device)

    def _text(self, token_ids: list[int]) -> str:
        return self.tokenizer.decode(token_ids)


def tidy_reasoning(text: str) -> str:
    """Return the chain of thought in a possibly unfinished answer."""
    return tidy(text.split("</think>")[0]) if "<think>" in text else ""
