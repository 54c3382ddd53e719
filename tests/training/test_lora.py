"""Adapters leave the adapted weights unchanged, and the exported model answers like the adapted one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lens_ros.lens import Lens
from lens_ros.model.checkpoint import find_model, load_model
from lens_ros.model.network import LensModel
from training.lora import LoraConfig, inject, merged

CONFIG = LoraConfig(rank=4, alpha=8, targets=("q_proj", "v_proj", "down_proj"))


def adapted() -> tuple[LensModel, Lens]:
    """Return lens-nano with adapters that change its answers."""
    model, tokenizer = load_model(find_model("lens-nano"))
    inject(model, CONFIG, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.15)
    return model, Lens(model, tokenizer)


def test_new_adapters_change_nothing_and_alone_are_trained_in_the_language_model() -> None:
    model, tokenizer = load_model(find_model("lens-nano"))
    ids = torch.arange(20, 60)[None]
    before = model.language_model(input_ids=ids).last_hidden_state
    inject(model, CONFIG, seed=0)
    torch.testing.assert_close(model.language_model(input_ids=ids).last_hidden_state, before)
    trained = {n for n, p in model.language_model.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in model.language_model.named_parameters() if "lora_" in n}
    assert len(trained) == 2 * 3 * len(model.language_model.layers)
    assert all(p.requires_grad for p in model.context_module().parameters())


def test_new_adapters_depend_on_the_seed_alone() -> None:
    def factors(seed: int, global_seed: int) -> torch.Tensor:
        model, _ = load_model(find_model("lens-nano"))
        torch.manual_seed(global_seed)
        inject(model, CONFIG, seed)
        state = torch.random.get_rng_state()
        torch.manual_seed(global_seed)
        assert torch.equal(state, torch.random.get_rng_state())
        drawn = [p.flatten() for name, p in model.named_parameters() if "lora_A" in name]
        return torch.cat(drawn).detach()

    assert torch.equal(factors(1, 2), factors(1, 3))
    assert not torch.equal(factors(1, 2), factors(2, 2))


def test_merged_answers_like_the_adapted_model(demo_image: np.ndarray) -> None:
    plain = Lens.from_pretrained("lens-nano")
    model, lens = adapted()
    weights = {n: t.clone() for n, t in model.state_dict().items()}
    whole = merged(model)
    assert whole.state_dict().keys() == plain.model.state_dict().keys()
    assert all(torch.equal(t, weights[n]) for n, t in model.state_dict().items())
    ids = torch.arange(20, 60)[None]
    expected = model.language_model(input_ids=ids).last_hidden_state
    got = whole.language_model(input_ids=ids).last_hidden_state
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    assert (got - plain.model.language_model(input_ids=ids).last_hidden_state).abs().max() > 0.1
    said = [
        one.segment(demo_image, "the blue mug", max_new_tokens=30)
        for one in (plain, lens, Lens(whole, lens.tokenizer))
    ]
    assert said[1].answer == said[2].answer != said[0].answer
    assert np.mean(said[1].unchecked_mask != said[2].unchecked_mask) < 1e-3


def test_without_adapters_the_model_is_its_own() -> None:
    model, _ = load_model(find_model("lens-nano"))
    assert merged(model) is model


def test_layers_that_are_not_there_are_named() -> None:
    model, _ = load_model(find_model("lens-nano"))
    with pytest.raises(ValueError, match="nowhere"):
        inject(model, LoraConfig(targets=("nowhere",)), seed=0)
