"""Training batches as a pure function of (seed, step), so that an interrupted run resumes exactly."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from lens_ros.model import prompts
from lens_ros.model.images import squash, visual_grid
from lens_ros.model.network import LensModel
from lens_ros.model.positions import mrope_positions
from lens_ros.simulation.expressions import SIMPLE_KINDS, Expression, sample_expression
from lens_ros.simulation.scene import SceneObject, mirror
from training.data.tabletop import TabletopShards
from training.dense import DenseLabels, dense_labels, fraction_box

HARD_KINDS = ("nearest", "between", "superlative", "size")
IGNORED = -1  # label of positions without a language loss


@dataclass(frozen=True)
class PackedText:
    """One image and several expressions per row: the image's prefix, then one segment per expression.

    A segment (question, answer, context queries) attends causally to the prefix and to itself. Its positions
    continue from the prefix. So an image is read once for all its expressions.

    Attributes:
        input_ids: ``(B, L)`` int64; query slots and padding hold the pad token.
        labels: ``(B, L)`` int64, the *next* token where it belongs to an answer, else ``IGNORED``.
        positions: ``(3, B, L)`` int64.
        attention: ``(B, 1, L, L)`` bool, true where attention is allowed.
        queries: ``(B, K)`` int64, column where each segment's context queries begin; -1 for no segment.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    positions: torch.Tensor
    attention: torch.Tensor
    queries: torch.Tensor


@dataclass(frozen=True)
class Batch:
    """Images, labels and text of one turn.

    Attributes:
        reasoner_images: ``(B, S, S, 3)`` uint8, squashed to the reasoner's size.
        segmenter_images: ``(B, S, S, 3)`` uint8, squashed to the segmenter's size.
        instances: Instance maps ``(B, S, S)`` uint8 at the segmenter's size.
        dense: Dense labels.
        boxes: Boxes of well visible objects for box prompts, ``(B, n, 4)``, in fractions of the image.
        box_owners: Object index of each of these boxes, ``(B, n)``.
        text: The packed text; None before the language part of training begins.
        targets: Object indices per expression, ``(B, K, T)`` int64, padded with 0.
        target_boxes: Boxes of the expressions with exactly one target, ``(B, K, 4)`` float32, in fractions of
            the image.
    """

    reasoner_images: torch.Tensor
    segmenter_images: torch.Tensor
    instances: torch.Tensor
    dense: DenseLabels
    boxes: torch.Tensor
    box_owners: torch.Tensor
    text: PackedText | None
    targets: torch.Tensor
    target_boxes: torch.Tensor


@dataclass(frozen=True)
class BatchPlan:
    """Composition of the batch of a step.

    Attributes:
        images: Number of images.
        expressions: Expressions per image; 0 for none.
        short: Answer with the conclusion only, and use the simple kinds only (first part of the curriculum).
        simple_share: How often a simple kind is drawn on purpose.
        box_prompts: Box prompts per image.
        unknown_words: How often an instruction gets a word that the tokenizer does not know, at a random
            place. People use more words than a small vocabulary contains.
        all_share: How often all of several objects are asked for on purpose.
        none_share: How often an absent object is asked for on purpose.
        hard_share: How often one of the kinds that are hardest to learn is drawn on purpose.
        fast_share: How often the answer has no rationale, as with ``Lens.segment(think=False)``.
    """

    images: int
    expressions: int
    short: bool
    simple_share: float
    box_prompts: int
    unknown_words: float = 0.0
    all_share: float = 0.0
    none_share: float = 0.0
    hard_share: float = 0.0
    fast_share: float = 0.0


class BatchMaker:
    """Create the batch of a step from rendered scenes."""

    def __init__(
        self, shards: TabletopShards, scenes: int, model: LensModel, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        """Use the first ``scenes`` scenes. Raises ValueError if there are fewer."""
        if len(shards) < scenes:
            raise ValueError(
                f"the data folder holds {len(shards)} scenes, the configuration asks for {scenes}; "
                "render the rest with python -m training.data.tabletop"
            )
        self._shards, self._scenes = shards, scenes
        self._image = model.config.image
        self._packer = TextPacker(model, tokenizer)

    def batch(self, seed: int, step: int, rank: int, plan: BatchPlan) -> Batch:
        """Return the part of ``step``'s batch for process ``rank``, a pure function of the arguments."""
        rng = np.random.default_rng([seed, step, rank])
        samples = [self._sample(rng, plan) for _ in range(plan.images)]
        rgbs, instances, objects, expressions = zip(*samples, strict=True)
        prompts_per_image = [
            _box_prompts(i, o, rng, plan.box_prompts) for i, o in zip(instances, objects, strict=True)
        ]
        boxes, owners = zip(*prompts_per_image, strict=True)
        count = max(1, plan.expressions)
        most = max((len(e.targets) for said in expressions for e in said), default=0)
        targets = np.zeros((plan.images, count, max(1, most)), dtype=np.int64)
        target_boxes = np.zeros((plan.images, count, 4), dtype=np.float32)
        for row, said in enumerate(expressions):
            for k, expression in enumerate(said):
                targets[row, k, : len(expression.targets)] = expression.targets
                if len(expression.targets) == 1:
                    target_boxes[row, k] = fraction_box(instances[row], expression.targets[0])
        dialogues = [
            [self._dialogue(e, i, o, rng, plan) for e in said]
            for i, o, said in zip(instances, objects, expressions, strict=True)
        ]
        return Batch(
            reasoner_images=_stack([squash(rgb, self._image.reasoner_size) for rgb in rgbs]),
            segmenter_images=_stack([squash(rgb, self._image.segmenter_size) for rgb in rgbs]),
            instances=_stack(list(instances)),
            dense=dense_labels(list(instances), list(objects), self._image.reasoner_size),
            boxes=torch.from_numpy(np.stack(boxes)),
            box_owners=torch.from_numpy(np.stack(owners)),
            text=self._packer.pack(dialogues, count) if plan.expressions else None,
            targets=torch.from_numpy(targets),
            target_boxes=torch.from_numpy(target_boxes),
        )

    def _sample(
        self, rng: np.random.Generator, plan: BatchPlan
    ) -> tuple[np.ndarray, np.ndarray, tuple[SceneObject, ...], list[Expression]]:
        while True:
            rgb, instances, objects = self._shards.scene(int(rng.integers(self._scenes)))
            size = (rgb.shape[1], rgb.shape[0])
            if rng.random() < 0.5:
                rgb, instances, objects = rgb[:, ::-1], instances[:, ::-1], mirror(objects, size[0])
            said = [e for e in (self._say(objects, size, rng, plan) for _ in range(plan.expressions)) if e]
            if not objects or (plan.expressions and not said):
                continue
            side = self._image.segmenter_size
            small = cv2.resize(np.ascontiguousarray(instances), (side, side), interpolation=cv2.INTER_NEAREST)
            return _relit(rgb, rng), small, objects, said

    def _say(
        self,
        objects: tuple[SceneObject, ...],
        size: tuple[int, int],
        rng: np.random.Generator,
        plan: BatchPlan,
    ) -> Expression | None:
        kind = None
        draw = 0.0 if plan.short else rng.random() - plan.simple_share
        if plan.short or draw < 0:
            kind = SIMPLE_KINDS[int(rng.integers(len(SIMPLE_KINDS)))]
        elif draw < plan.all_share:
            kind = "all_of"
        elif draw < plan.all_share + plan.none_share:
            kind = "none"
        elif draw < plan.all_share + plan.none_share + plan.hard_share:
            kind = HARD_KINDS[int(rng.integers(len(HARD_KINDS)))]
        said = sample_expression(objects, size, rng, kind=kind, coordinate_extent=self._image.reasoner_size)
        if said is None or plan.unknown_words == 0 or rng.random() >= plan.unknown_words:
            return said
        words = said.text.split()
        words.insert(int(rng.integers(len(words) + 1)), prompts.UNKNOWN)
        return dataclasses.replace(said, text=" ".join(words))

    def _dialogue(
        self, said: Expression, instances: np.ndarray, objects: tuple[SceneObject, ...],
        rng: np.random.Generator, plan: BatchPlan,
    ) -> Dialogue:  # fmt: skip
        named = {o.index: f"{o.color} {o.category}" for o in objects}
        side = self._image.reasoner_size
        boxes = [reasoner_box(fraction_box(instances, target), side) for target in said.targets]
        fast = plan.fast_share > 0 and rng.random() < plan.fast_share
        rationale = "" if fast else said.conclusion if plan.short else said.rationale
        answer = prompts.answer(rationale, boxes, [named[target] for target in said.targets])
        return Dialogue(said.text, answer, prompts.opening("tabletop", think=not fast))


def reasoner_box(fractions: tuple[float, float, float, float], side: int) -> tuple[int, int, int, int]:
    """Convert a box in fractions of the image to whole pixels ``0 .. side - 1`` of the reasoner's picture."""
    x1, y1, x2, y2 = (min(side - 1, max(0, round(f * side))) for f in fractions)
    return x1, y1, x2, y2


@dataclass(frozen=True)
class Dialogue:
    """An instruction, its complete answer, and the opening of the answer, which is given and not learned."""

    instruction: str
    answer: str
    opening: str = ""


class TextPacker:
    """Packs questions and answers into rows; see :class:`PackedText`."""

    def __init__(self, model: LensModel, tokenizer: PreTrainedTokenizerFast) -> None:
        side = model.config.image.reasoner_size
        rows, cols = visual_grid(side, side)
        self._tokenizer = tokenizer
        self._prefix = self._encode(prompts.image_prefix(rows * cols))
        image_token = model.reasoner.config.image_token_id
        self._prefix_positions, self._next = mrope_positions(
            torch.tensor(self._prefix), image_token, (rows, cols)
        )
        self._queries = model.context_module().num_queries

    def pack(self, dialogues: list[list[Dialogue]], segments: int) -> PackedText:
        """Pack the dialogues of each image into a row; an image has at most ``segments`` dialogues."""
        encoded = [
            [
                (
                    self._encode(prompts.question(d.instruction) + d.opening),
                    self._encode(d.answer.removeprefix(d.opening)),
                )
                for d in image
            ]
            for image in dialogues
        ]
        start = len(self._prefix)
        length = max(start + sum(len(q) + len(a) + self._queries for q, a in image) for image in encoded)
        batch = len(encoded)
        ids = np.full((batch, length), self._tokenizer.pad_token_id, dtype=np.int64)
        labels = np.full((batch, length), IGNORED, dtype=np.int64)
        positions = np.zeros((3, batch, length), dtype=np.int64)
        owner = np.full((batch, length), -1, dtype=np.int64)  # -1 padding, 0 prefix, k = segment k
        queries = np.full((batch, segments), -1, dtype=np.int64)
        ids[:, :start], owner[:, :start] = self._prefix, 0
        positions[:, :, :start] = self._prefix_positions[:, None].numpy()
        for row, image in enumerate(encoded):
            at = start
            for k, (question, answer) in enumerate(image):
                middle, end = at + len(question), at + len(question) + len(answer)
                ids[row, at:end] = question + answer
                labels[row, middle - 1 : end - 1] = answer
                queries[row, k] = end
                end += self._queries
                owner[row, at:end] = k + 1
                positions[:, row, at:end] = self._next + np.arange(end - at)
                at = end
        belongs = torch.from_numpy(owner)
        same = belongs[:, :, None] == belongs[:, None, :]
        allowed = (same | (belongs == 0)[:, None, :]) & torch.ones(length, length, dtype=torch.bool).tril()
        return PackedText(
            torch.from_numpy(ids), torch.from_numpy(labels), torch.from_numpy(positions), allowed[:, None],
            torch.from_numpy(queries),
        )  # fmt: skip

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)


def _box_prompts(
    instances: np.ndarray, objects: tuple[SceneObject, ...], rng: np.random.Generator, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw ``(count, 4)`` float32 boxes, jittered by 6 % of their size, and ``(count,)`` int64 owners."""
    visible = [o.index for o in objects if o.area >= 70] or [max(objects, key=lambda o: o.area).index]
    owners = rng.choice(visible, size=count, replace=len(visible) < count).astype(np.int64)
    boxes = np.array([fraction_box(instances, int(o)) for o in owners], dtype=np.float32).reshape(count, 4)
    extent = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    noise = rng.normal(size=boxes.shape).astype(np.float32) * 0.06
    return boxes + noise * extent, owners


def _relit(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change exposure and white balance slightly at random; ``(H, W, 3)`` uint8."""
    gain = rng.uniform(0.8, 1.2) * rng.uniform(0.95, 1.05, size=3)
    return np.clip(rgb * gain.astype(np.float32), 0, 255).astype(np.uint8)


def _stack(arrays: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(arrays))
