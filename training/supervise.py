"""Supervised training of lens-nano: ``python -m training.supervise CONFIG [field=value ...]``.

One run, three parts by step: first the two image encoders learn from dense labels and box prompts; then the
reasoner learns to answer simple expressions briefly; then everything is trained on everything: rationale and
box by language loss, masks through the context queries. Or from a trained model (``start_from``), usually in
the last part at once. Resumes from ``out`` where there is a checkpoint.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import distributed, nn
from torch.nn import functional as F
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from lens_ros.evaluation.metrics import summarize
from lens_ros.lens import Lens
from lens_ros.model.checkpoint import find_model, save_model
from lens_ros.model.network import LensModel
from lens_ros.model.segmenters import ImageFeatures
from training.checkpoint import load_state, save_state
from training.config import SuperviseConfig, load_config
from training.data.batches import IGNORED, Batch, BatchMaker, BatchPlan, PackedText
from training.data.questions import tabletop_questions
from training.data.tabletop import TabletopShards
from training.dense import DenseHeads
from training.evaluate import evaluate
from training.losses import language_loss, mask_iou, mask_loss
from training.nano import build_nano, inherit, number_tokens

METRICS = "metrics.jsonl"
RECORD = "training.json"
_MASK_SIDE = 128  # pixels at which masks are compared: twice the decoder's resolution


class SupervisedLoss(nn.Module):
    """One forward pass: a batch in, the total loss and its parts out."""

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
        few = self.config.segmenter_images // self.config.processes
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
        """The language model over packed rows, context queries in their slots: ``(B, L, H)``."""
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
        """Row and column of every query of every segment, segment by segment."""
        row, segment = (text.queries >= 0).nonzero(as_tuple=True)
        begin = text.queries[row, segment]
        count = self.model.context_module().num_queries
        columns = begin[:, None] + torch.arange(count)
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
        # One target has a place; several have none that a box could tell, and nothing has none at all.
        single = ((batch.targets > 0).sum(-1) == 1)[asked]
        located = 2 * self.heads.prompt_loss(prompts[single], batch.target_boxes[asked][single])
        grid = prompts.new_zeros(*asked.shape, prompts.shape[-1])
        grid = grid.masked_scatter(asked[..., None], prompts)
        logits, score = self.model.decode(features, grid[:few])
        kept = asked[:few]
        targets = _coverage(batch.instances[:few], batch.targets[:few])
        loss = self._mask_loss(logits[kept], score[kept], targets[kept], metrics, "context")
        return loss + located

    def _mask_loss(
        self, logits: torch.Tensor, score: torch.Tensor, targets: torch.Tensor,
        metrics: dict[str, float], name: str,
    ) -> torch.Tensor:  # fmt: skip
        logits = F.interpolate(logits[:, None].float(), size=(_MASK_SIDE,) * 2, mode="bilinear")[:, 0]
        iou = mask_iou(logits.detach(), targets)
        metrics[f"{name}/iou"] = iou.mean().item()
        return mask_loss(logits, targets) + F.mse_loss(score.float(), iou)


def _coverage(instances: torch.Tensor, owners: torch.Tensor) -> torch.Tensor:
    """``(B, S, S)`` and ``(B, K, T)`` to ``(B, K, 128, 128)``: the share of each cell that is the owners'.
    0 is no owner."""
    owners = torch.where(owners > 0, owners, -1)
    masks = (instances[:, None, None] == owners[..., None, None]).any(dim=2).float()
    return F.adaptive_avg_pool2d(masks, _MASK_SIDE)


class Optimizers:
    """Muon for hidden matrices of the transformers, AdamW for the rest, one schedule over both."""

    def __init__(self, loss: SupervisedLoss, config: SuperviseConfig) -> None:
        self.config = config
        reasoner = loss.model.reasoner.model
        blocks = [*reasoner.visual.blocks, reasoner.visual.merger, *reasoner.language_model.layers]
        matrices = [p for block in blocks for p in block.parameters() if p.ndim == 2]
        chosen = {id(p) for p in matrices}
        others = [p for p in loss.parameters() if id(p) not in chosen]
        self.muon = torch.optim.Muon(
            matrices, lr=config.muon_lr, weight_decay=0.05, momentum=0.95, adjust_lr_fn="match_rms_adamw"
        )
        self.adam = torch.optim.AdamW(
            [
                {"params": [p for p in others if p.ndim > 1], "weight_decay": config.weight_decay},
                {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
            ],
            lr=config.adam_lr,
            betas=(0.9, 0.98),
        )

    def step(self, step: int) -> None:
        scale = learning_rate_scale(step, self.config)
        for optimizer, peak in ((self.muon, self.config.muon_lr), (self.adam, self.config.adam_lr)):
            for group in optimizer.param_groups:
                group["lr"] = peak * scale
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict:
        return {"muon": self.muon.state_dict(), "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])


def learning_rate_scale(step: int, config: SuperviseConfig) -> float:
    """Warm-up, plateau, linear cool-down: a run can be shortened or lengthened after the fact by resuming an
    earlier checkpoint with another ``steps``, since the plateau does not depend on it."""
    warm = (step + 1) / config.warmup
    cool = (config.steps - step) / (config.steps * config.cooldown)
    return min(1.0, warm, cool)


@dataclass(frozen=True)
class _Part:
    plan: BatchPlan
    with_queries: bool


def part_of(step: int, config: SuperviseConfig) -> _Part:
    """What ``step`` trains on."""
    speaks, full = step >= config.language_from, step >= config.full_from
    plan = BatchPlan(
        images=config.images // config.processes,
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


def train(config: SuperviseConfig) -> Path:
    """Runs or resumes training; returns the folder of the exported model.

    Raises:
        ValueError: the images of a step cannot be shared evenly by the processes.
    """
    if config.images % config.processes or config.segmenter_images % config.processes:
        raise ValueError(
            f"images ({config.images}) and segmenter_images ({config.segmenter_images}) must be multiples of "
            f"processes ({config.processes})"
        )
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    meeting = out / "meeting"  # where the processes find each other; gloo does not clean it up
    meeting.unlink(missing_ok=True)
    torch.multiprocessing.spawn(_work, (config, meeting), nprocs=config.processes)
    return out / "model"


def _work(rank: int, config: SuperviseConfig, meeting: Path) -> None:
    # A parent that dies sends SIGINT to its workers, which a run in the background would ignore.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=meeting.resolve().as_uri(), rank=rank, world_size=config.processes
    )
    out = Path(config.out)
    model, tokenizer = build_nano(config.seed)
    if config.start_from:
        inherit(model, tokenizer, find_model(config.start_from))
    loss_of = SupervisedLoss(model, tokenizer, config)
    optimizers = Optimizers(loss_of, config)
    maker = BatchMaker(TabletopShards(config.data), config.scenes, model, tokenizer)
    first, spent = 0, 0.0
    if (state := load_state(out)) is not None:
        loss_of.load_state_dict(state["loss"])
        optimizers.load_state_dict(state["optimizers"])
        first, spent = state["step"], state["seconds"]
    clerk = _Clerk(model, tokenizer, config, first) if rank == 0 else None
    started = time.perf_counter() - spent
    for step in range(first, config.steps):
        part = part_of(step, config)
        batch = maker.batch(config.seed, step, rank, part.plan)
        loss_of.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bf16):
            loss, metrics = loss_of(batch, part.with_queries)
        loss.backward()
        average_gradients(loss_of)
        metrics["grad_norm"] = nn.utils.clip_grad_norm_(loss_of.parameters(), config.clip_norm).item()
        optimizers.step(step)
        done, seconds = step + 1, time.perf_counter() - started
        if done % config.checkpoint_every == 0 or done == config.steps:
            if clerk is not None:
                state = {"loss": loss_of.state_dict(), "optimizers": optimizers.state_dict()}
                save_state(out, step=done, seconds=seconds, **state)
        if clerk is not None:
            clerk.report(done, seconds, metrics, answers=part.with_queries)
        distributed.barrier()
    if clerk is not None:
        export(model, tokenizer, config, time.perf_counter() - started)
    distributed.destroy_process_group()


def average_gradients(module: nn.Module) -> None:
    """Replaces every gradient by its mean over all processes; absent ones count as zero."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    flat = torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters]
    )
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    for parameter, gradient in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        if parameter.grad is not None:
            parameter.grad.copy_(gradient.view_as(parameter))


class _Clerk:
    """What the first process does besides training: progress, metrics, validation."""

    def __init__(
        self, model: LensModel, tokenizer: PreTrainedTokenizerFast, config: SuperviseConfig, first: int
    ) -> None:
        self._lens = Lens(model, tokenizer)
        self._config = config
        count = config.validation_expressions
        # No validation, no simulator: training itself needs no OpenGL.
        questions = tabletop_questions(config.validation_seed, (count + 1) // 2, count) if count else ()
        self._questions = list(questions)
        self._log = Metrics(Path(config.out))
        counted = sum(p.numel() for p in model.parameters()) / 1e6
        print(f"{config.out}: step {first}, {counted:.2f} M parameters, {len(tokenizer)} tokens", flush=True)
        self._progress = tqdm(initial=first, total=config.steps, mininterval=10)

    def report(self, step: int, seconds: float, metrics: dict[str, float], *, answers: bool) -> None:
        self._progress.update()
        self._log.add(metrics)
        if step % 50 == 0:
            self._progress.set_postfix_str(self._log.write(step, seconds))
        due = step % self._config.evaluate_every == 0 and step < self._config.steps
        if self._questions and answers and due:
            self._lens.model.eval()
            result = summarize(evaluate(self._lens, self._questions))
            self._log.write(step, seconds, evaluation=result)
            tqdm.write(f"step {step}, {seconds:.0f} s: {json.dumps(result)}")


class Metrics:
    """Running means of the steps since the last line, written as JSON lines to ``out/metrics.jsonl``."""

    def __init__(self, out: Path) -> None:
        self._path = out / METRICS
        self._path.touch()
        self._sums: dict[str, list[float]] = {}

    def add(self, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self._sums.setdefault(name, []).append(value)

    def write(self, step: int, seconds: float, **more: object) -> str:
        """Writes a line; returns a short form for the progress bar."""
        means = {name: round(sum(v) / len(v), 4) for name, v in self._sums.items()}
        self._sums.clear()
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "seconds": round(seconds, 1), **means, **more}) + "\n")
        short = ("loss/language", "language/number_accuracy", "boxes/iou", "context/iou")
        return " ".join(f"{name.split('/')[0]} {means[name]:.2f}" for name in short if name in means)


def export(
    model: LensModel, tokenizer: PreTrainedTokenizerFast, config: SuperviseConfig, seconds: float
) -> Path:
    """Writes the model as it ships, float16, with its record: configuration, seeds, time and curves."""
    folder = Path(config.out) / "model"
    save_model(model, tokenizer, folder, dtype=torch.float16)
    parent = _record(find_model(config.start_from)) if config.start_from else {}
    record = {
        "program": "training.supervise",
        "seconds": round(seconds),
        "rendered_seeds": sorted(
            {config.data_seed, config.validation_seed, *parent.get("rendered_seeds", ())}
        ),
        # Without the folders, which mean nothing on another machine.
        "config": {
            **{k: v for k, v in dataclasses.asdict(config).items() if k not in ("data", "out")},
            "start_from": Path(config.start_from).name,
        },
        **({"started_from": parent} if parent else {}),
    }
    (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    shutil.copy(Path(config.out) / METRICS, folder)
    return folder


def _record(folder: Path) -> dict:
    return json.loads((folder / RECORD).read_text(encoding="utf-8"))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("config", type=Path, help="YAML file, such as training/configs/nano.yaml")
    parser.add_argument("overrides", nargs="*", metavar="field=value")
    options = parser.parse_args(arguments)
    print("exported", train(load_config(options.config, options.overrides)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
