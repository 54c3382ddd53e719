"""The shared forward pass, compared with full copies, with generation, and between two processes."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from benchmarks.first_mask import random_model, scaled
from lens_ros.model import prompts
from lens_ros.model.generation import generate
from lens_ros.model.images import visual_grid
from lens_ros.model.kv_cache import Reading
from lens_ros.model.network import LensModel
from lens_ros.model.positions import padded_mrope_positions
from tests.full_pass import full_pass
from training.nano import build_nano
from training.policy import Completions, Judged, Policy, without_adapters

GROUP, LENGTH = 4, 9
LENGTHS = [9, 5, 1, 0]  # of a group's completions; one ran to the limit, one said nothing
INSTRUCTIONS = ["the ball", "the red mug left of the bowl"]


def newborn(scheme: str = "mrope", noise: float = 0.05) -> tuple[LensModel, list[torch.Tensor]]:
    """Return an untrained lens-nano in training mode, and prompts of different lengths."""
    model, tokenizer = build_nano(seed=0)
    # At birth the masks hardly depend on the reasoner and the answers not at all on the image.
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for part in (model.language_model.layers, model.context_module()):
            for parameter in part.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * noise)
    model.config = dataclasses.replace(model.config, query_positions=scheme)
    rows, cols = visual_grid(*[model.config.image.reasoner_size] * 2)
    texts = [prompts.image_prefix(rows * cols) + prompts.question(text) for text in INSTRUCTIONS]
    return model.train(), [torch.tensor(tokenizer.encode(t, add_special_tokens=False)) for t in texts]


def completions_for(model: LensModel, asked: list[torch.Tensor], seed: int) -> Completions:
    """Return noise images with random completions; prompts are padded at the left."""
    generator = torch.Generator().manual_seed(seed)

    def noise(side: int) -> torch.Tensor:
        shape = (len(asked), side, side, 3)
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)

    longest = max(len(ids) for ids in asked)
    pad = [(longest - len(ids), 0) for ids in asked]
    vocabulary = model.reasoner.config.text_config.vocab_size
    shape = (len(asked), GROUP, LENGTH)
    ids = torch.randint(10, vocabulary, shape, generator=generator)
    mask = (torch.arange(LENGTH) < torch.tensor(LENGTHS)[:, None]).long().expand(shape)
    image = model.config.image
    return Completions(
        noise(image.reasoner_size),
        noise(image.segmenter_size),
        torch.stack([F.pad(ids, p) for ids, p in zip(asked, pad, strict=True)]),
        torch.stack([F.pad(torch.ones_like(ids), p) for ids, p in zip(asked, pad, strict=True)]),
        ids,
        mask,
    )


def one(completions: Completions, row: int) -> Completions:
    """Return the group of one image."""
    return Completions(*(t[row : row + 1] for t in vars(completions).values()))


def copied(model: LensModel, completions: Completions) -> Judged:
    """Compute the same by full copies.

    Every completion has its own image and prompt, nothing is cached, the language head runs at every
    position, and the image is encoded once per mask.
    """
    rows = []
    for b in range(len(completions.prompt_ids)):
        seen = completions.prompt_mask[b].bool()
        for g in range(completions.group):
            length = int(completions.completion_mask[b, g].sum())
            said = completions.completion_ids[b, g, :length]
            ids = torch.cat([completions.prompt_ids[b, seen], said])
            picture = completions.reasoner_images[b : b + 1]
            visual = model.see(picture)[1][0]
            grid = visual_grid(*picture.shape[1:3])
            read = full_pass(model, ids[None], torch.ones_like(ids)[None], visual, [grid])
            everywhere = model.reasoner.lm_head(read.hidden[0]).log_softmax(-1)
            distributions = everywhere[len(ids) - length - 1 : len(ids) - 1]
            chosen = distributions.gather(1, said[:, None])[:, 0]
            entropy = -(distributions.exp() * distributions).sum(-1).detach()
            prompt = model.context_module()(read.queries)
            features = model.encode_image(completions.segmenter_images[b : b + 1])
            mask, iou = model.decode(features, prompt)
            padding = (0, completions.completion_ids.shape[2] - length)
            rows.append((F.pad(chosen, padding), F.pad(entropy, padding), mask[0, 0], iou[0, 0]))
    shape = completions.completion_ids.shape[:2]
    return Judged(*(torch.stack(parts).unflatten(0, shape) for parts in zip(*rows, strict=True)))


def objective(judged: Judged) -> torch.Tensor:
    """Return a scalar to which every element of every output contributes with its own weight."""
    assert judged.masks is not None and judged.iou is not None
    generator = torch.Generator().manual_seed(3)
    total = torch.zeros(())
    for scale, part in ((0.03, judged.log_probs), (0.1, judged.masks), (0.1, judged.iou)):
        weights = torch.randn(part.shape, generator=generator)
        total = total + scale * (weights * part).sum() / (1 if part.ndim < 4 else part[0, 0].numel() ** 0.5)
    return total


def gradients(model: nn.Module) -> dict[str, torch.Tensor | None]:
    taken = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    model.zero_grad(set_to_none=True)
    return taken


def untouched(model: nn.Module) -> set[str]:
    """Return the parameters without a gradient, or with an exact zero everywhere."""
    return {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}


@pytest.mark.parametrize("scheme", ["mrope", "sequential"])
def test_loss_and_gradients_are_those_of_full_copies(scheme: str) -> None:
    model, asked = newborn(scheme)
    policy = Policy(model)
    completions = completions_for(model, asked, seed=1)
    expected = copied(model, completions)
    loss = objective(expected)
    loss.backward()
    wanted = gradients(model)
    judged = policy(completions)
    shared = objective(judged)
    shared.backward()
    got = gradients(model)
    for name, ours, theirs in zip(Judged._fields, judged, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert abs(shared.item() - loss.item()) < 1e-5
    assert [name for name, gradient in wanted.items() if gradient is None] == []
    assert [name for name, gradient in got.items() if gradient is None] == []
    assert 0.1 < max(gradient.abs().max() for gradient in wanted.values() if gradient is not None) < 10
    wrong = {}
    for name, gradient in wanted.items():
        difference = (got[name] - gradient).abs().max().item()
        # A small gradient is held to its own size too: 5e-5 alone would let it vanish.
        if difference > min(5e-5, 1e-2 * gradient.abs().max().item() + 1e-7):
            wrong[name] = difference
    assert wrong == {}


def test_gradients_reach_every_part_and_nothing_that_is_frozen() -> None:
    model, asked = newborn()
    policy = Policy(model)
    completions = completions_for(model, asked, seed=1)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    model.requires_grad_(True)
    objective(policy(completions)).backward()
    assert frozen == untouched(model)
    model.zero_grad(set_to_none=True)
    judged = policy(completions)
    assert judged.masks is not None
    judged.masks.square().mean().backward()  # masks alone must teach the reasoner to see
    for part in (
        model.reasoner.model.visual, model.language_model.embed_tokens, model.language_model.layers,
        model.context_module().connector, model.segmenter.sam.vision_encoder,
        model.segmenter.sam.mask_decoder.transformer,
    ):  # fmt: skip
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in part.parameters())
    assert model.context_module().learnable_query.grad.abs().max() > 0
    model.zero_grad(set_to_none=True)
    model.reasoner.model.visual.requires_grad_(False)
    model.segmenter.sam.vision_encoder.requires_grad_(False)
    objective(policy(completions)).backward()
    still = (model.reasoner.model.visual, model.segmenter.sam.vision_encoder)
    assert all(p.grad is None for part in still for p in part.parameters())
    assert model.context_module().learnable_query.grad.abs().max() > 0


def test_what_is_frozen_fits_the_papers_segmenter_too() -> None:
    config = dataclasses.replace(scaled(8, "small"), query_positions="mrope")
    model = random_model(config, "cpu", torch.float32)
    policy = Policy(model).train()
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    model.requires_grad_(True)
    prompt = torch.tensor([[5, 6, *[model.reasoner.config.image_token_id] * 4, 7]])
    side = model.config.image.segmenter_size
    completions = Completions(
        torch.full((1, 56, 56, 3), 99, dtype=torch.uint8),
        torch.full((1, side, side, 3), 99, dtype=torch.uint8),
        prompt, torch.ones_like(prompt), torch.tensor([[[8, 9]]]), torch.tensor([[[1, 1]]]),
    )  # fmt: skip
    objective(policy(completions)).backward()
    assert frozen == untouched(model)


def test_padding_and_company_change_nothing() -> None:
    model, asked = newborn()
    policy = Policy(model)
    together = completions_for(model, asked, seed=2)
    longer = dataclasses.replace(
        together,
        prompt_ids=F.pad(together.prompt_ids, (3, 0), value=7),
        prompt_mask=F.pad(together.prompt_mask, (3, 0)),
        completion_ids=F.pad(together.completion_ids, (0, 4), value=11),
        completion_mask=F.pad(together.completion_mask, (0, 4)),
    )
    with torch.no_grad():
        plain, padded = policy(together), policy(longer)
        alone = [policy(one(together, row)) for row in range(len(asked))]
    assert (padded.log_probs[..., LENGTH:] == 0).all() and (padded.entropy[..., LENGTH:] == 0).all()
    assert (plain.log_probs[together.completion_mask == 0] == 0).all()
    assert (plain.log_probs[together.completion_mask == 1] < 0).all()
    torch.testing.assert_close(padded.log_probs[..., :LENGTH], plain.log_probs, atol=1e-5, rtol=0)
    torch.testing.assert_close(padded.masks, plain.masks, atol=1e-5, rtol=1e-5)
    for name, values in plain._asdict().items():
        apart = torch.cat([getattr(judged, name) for judged in alone])
        torch.testing.assert_close(apart, values, atol=1e-5, rtol=1e-5)


def test_log_probs_are_those_that_the_answer_was_generated_with() -> None:
    model, asked = newborn(noise=0.1)
    model.eval()
    completions = one(completions_for(model, asked, seed=4), 1)
    ids, mask = completions.prompt_ids, completions.prompt_mask
    token, size = model.reasoner.config.image_token_id, completions.reasoner_images.shape[1:3]
    seen: list[torch.Tensor] = []

    def head(hidden: torch.Tensor) -> torch.Tensor:
        seen.append(model.reasoner.lm_head(hidden))
        return seen[-1]

    with torch.no_grad():
        reading = Reading(model.language_model, rows=1)
        embedded = model.embed(ids, model.see(completions.reasoner_images)[1][0])
        hidden = reading.read(embedded, mask, padded_mrope_positions(ids, mask, token, [visual_grid(*size)]))
        written = generate(
            reading, head(hidden[:, -1]), embed=model.language_model.embed_tokens, head=head, end_token=-1,
            pad_token=0, max_new_tokens=12,
        )  # fmt: skip
        greedy = dataclasses.replace(
            completions, completion_ids=written.token_ids[None], completion_mask=written.mask[None]
        )
        judged = Policy(model)(greedy, with_masks=False)
    distributions = torch.stack(seen, dim=1).log_softmax(-1)
    assert len(written.token_ids[0].unique()) > 3  # a constant answer would prove little
    torch.testing.assert_close(judged.log_probs[0], distributions.max(-1).values, atol=1e-5, rtol=0)
    entropy = -(distributions.exp() * distributions).sum(-1)
    torch.testing.assert_close(judged.entropy[0], entropy, atol=1e-5, rtol=0)


def test_the_work_on_image_and_prompt_is_done_once() -> None:
    model, asked = newborn()
    completions = completions_for(model, asked, seed=5)
    calls: list[tuple[str, int]] = []

    def count(name: str) -> Callable:
        return lambda _, args, out: calls.append((name, args[0].shape[0]))

    def read(_: nn.Module, args: tuple, out: torch.Tensor) -> None:
        calls.append(("read", args[0].shape[0] * args[0].shape[1]))

    hooks = [
        model.reasoner.model.visual.register_forward_hook(count("patches")),
        model.segmenter.sam.vision_encoder.register_forward_hook(count("encode")),
        model.reasoner.lm_head.register_forward_hook(count("head")),
        model.language_model.layers[0].register_forward_hook(read),
    ]
    policy = Policy(model)
    policy(completions)
    said = int(completions.completion_mask.sum())
    prompt = ("read", completions.prompt_ids.numel())
    queries = model.context_module().num_queries
    images = len(asked)
    look = ("patches", images * (model.config.image.reasoner_size // 14) ** 2)
    extension = ("read", images * GROUP * (LENGTH + queries))
    assert calls == [look, prompt, extension, ("head", said), ("encode", images)]
    calls.clear()
    with torch.no_grad():
        judged = policy(completions, with_masks=False)
    assert judged.masks is None and judged.iou is None
    assert calls == [look, prompt, ("read", images * GROUP * LENGTH), ("head", said)]
    for hook in hooks:
        hook.remove()


def test_what_does_not_fit_is_named() -> None:
    model, asked = newborn()
    completions = completions_for(model, asked, seed=6)
    with pytest.raises(ValueError, match="padded at the left"):
        dataclasses.replace(completions, prompt_mask=completions.prompt_mask.flip(-1))
    with pytest.raises(ValueError, match="padded at the right"):
        dataclasses.replace(completions, completion_mask=completions.completion_mask.flip(-1))
    with pytest.raises(ValueError, match=r"must both be \(B, G, T\)"):
        dataclasses.replace(completions, completion_mask=completions.completion_mask[..., :-1])
    with pytest.raises(ValueError, match="for the 1 and 2 images"):
        dataclasses.replace(completions, reasoner_images=completions.reasoner_images[:1])
    model.reasoner.gradient_checkpointing_enable()
    with pytest.raises(ValueError, match=r"enable it on model\.reasoner\.model\.visual alone"):
        Policy(model)(completions)
    model.context = None
    with pytest.raises(ValueError, match="no context module"):
        Policy(model)


def test_checkpointing_the_vision_tower_changes_nothing() -> None:
    model, asked = newborn()
    policy = Policy(model)
    completions = one(completions_for(model, asked, seed=1), 0)
    objective(policy(completions)).backward()
    wanted = gradients(model)
    model.reasoner.model.visual.gradient_checkpointing_enable()
    objective(policy(completions)).backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, wanted[name], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("way", ["autocast", "weights"])
def test_bfloat16_works_with_float32_probabilities(way: str) -> None:
    model, asked = newborn()
    completions = completions_for(model, asked, seed=8)
    policy = Policy(model)
    with torch.no_grad():
        exact = policy(completions)
    if way == "weights":
        model.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast"):
        judged = policy(completions)
    objective(judged).backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert judged.log_probs.dtype == judged.entropy.dtype == torch.float32
    torch.testing.assert_close(judged.log_probs, exact.log_probs, atol=0.2, rtol=0)
    agreement = ((judged.masks > 0) == (exact.masks > 0)).float().mean()
    assert agreement > 0.9


def test_without_adapters_the_policy_is_its_own_reference() -> None:
    peft = pytest.importorskip("peft")
    model, asked = newborn()
    completions = completions_for(model, asked, seed=7)
    policy = Policy(model)
    with torch.no_grad():
        before = policy(completions, with_masks=False).log_probs
    model.reasoner.requires_grad_(False)
    # Its own initialisation of the second factor is zero: the adapter would do nothing.
    settings = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    peft.inject_adapter_in_model(settings, model.language_model)
    with torch.no_grad():
        adapted = policy(completions, with_masks=False).log_probs
        with without_adapters(policy):
            reference = policy(completions, with_masks=False).log_probs
    assert (adapted - before).abs().max() > 1e-3
    assert torch.equal(reference, before)
    objective(policy(completions)).backward()
    adapters = [p for name, p in model.named_parameters() if "lora" in name]
    assert adapters and all(p.grad is not None and p.grad.abs().max() > 0 for p in adapters)


STEPS, RATE, RANKS = 2, 0.05, 2


def newborn_in_double() -> tuple[LensModel, list[torch.Tensor]]:
    """Return the model in double precision.

    In float32 the effect of summation order on two steps depends on the machine: 1e-5 here, 3e-5 there.
    """
    model, asked = newborn()
    return model.double(), asked


def work(rank: int, way: str, folder: Path) -> None:
    """Run one of two processes: take steps on its own data, under DDP or FSDP.

    DDP runs without ``find_unused_parameters``; FSDP shards the language model layer by layer.
    """
    torch.set_num_threads(1)
    meeting = (folder / "meeting").as_uri()
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=RANKS)
    model, asked = newborn_in_double()
    policy: nn.Module = Policy(model)
    if way == "ddp":
        policy = DistributedDataParallel(policy)
    else:
        mesh = init_device_mesh("cpu", (RANKS,))
        for layer in model.language_model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(policy, mesh=mesh)
    optimizer = torch.optim.SGD([p for p in policy.parameters() if p.requires_grad], lr=RATE)
    for step in range(STEPS):
        with torch.no_grad():  # a reference in between must not disturb what is wrapped around
            policy(completions_for(model, asked, seed=0), with_masks=False)
        objective(policy(completions_for(model, asked, seed=10 * step + rank))).backward()
        optimizer.step()
        optimizer.zero_grad()
    state = model.state_dict()
    whole = {name: t.full_tensor() if isinstance(t, DTensor) else t for name, t in state.items()}
    torch.save(whole, folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def averaged() -> dict[str, torch.Tensor]:
    """Return the weights from one process that averages the gradients of both."""
    model, asked = newborn_in_double()
    policy = Policy(model)
    born = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=RATE)
    for step in range(STEPS):
        for rank in range(RANKS):
            loss = objective(policy(completions_for(model, asked, seed=10 * step + rank)))
            (loss / RANKS).backward()
        optimizer.step()
        optimizer.zero_grad()
    state = model.state_dict()
    assert max((state[name] - born[name]).abs().max() for name in born) > 1e-2
    return state


@pytest.mark.slow
@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_two_processes_stay_equal_and_equal_one_that_averages(
    way: str, averaged: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    torch.multiprocessing.start_processes(work, (way, tmp_path), nprocs=RANKS, start_method="forkserver")
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(RANKS))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert first.keys() == averaged.keys()
    for name in first:
        torch.testing.assert_close(first[name], averaged[name], atol=1e-6, rtol=0)
