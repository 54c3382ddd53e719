"""The paper's released checkpoints are read completely, also at full size, or refused with the reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
)

from lens_ros.model.checkpoint import load_model, save_model
from lens_ros.model.config import LensConfig
from lens_ros.model.errors import CheckpointError
from lens_ros.model.network import LensModel
from lens_ros.model.released import load_released, released_config
from lens_ros.model.released_names import map_released

GOLDEN = Path(__file__).parents[1] / "fixtures" / "parity"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
Tensors = dict[str, torch.Tensor]

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
NORM = "sam.image_encoder.trunk.blocks.1.norm1.weight"
GAUSSIAN = "sam.sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
POINT = "sam.sam_prompt_encoder.point_embeddings.2.weight"
# SAM 2's memory and object pointers, as far as checkpoints of both stages carry them.
MEMORY = ("sam.no_mem_pos_enc", "sam.no_obj_ptr", "sam.mask_downsample.", "sam.obj_ptr_proj.")


@pytest.fixture(scope="module")
def stored(released_folder: Path) -> Tensors:
    return load_file(released_folder / WEIGHTS)


@pytest.fixture(scope="module")
def loaded(released_folder: Path) -> LensModel:
    return load_released(released_folder)


@pytest.fixture
def folder(released_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(released_folder, tmp_path / "copy"))


def save_pt(path: Path, tensors: Tensors) -> Path:
    """Write a file in SAM 2's own format from a checkpoint's tensors."""
    own = {n.removeprefix("sam."): t.float() for n, t in tensors.items() if n.startswith("sam.")}
    torch.save({"model": own}, path)
    return path


def manifest(name: str) -> dict[str, list[int]]:
    return json.loads((GOLDEN / name).read_text())


def on_meta(shapes: dict[str, list[int]]) -> Tensors:
    return {name: torch.empty(shape, dtype=torch.bfloat16, device="meta") for name, shape in shapes.items()}


# ---- what is loaded


def test_every_tensor_of_the_file_arrives_and_none_else_is_there(loaded: LensModel, stored: Tensors) -> None:
    mapped = map_released(stored)
    state = loaded.state_dict()
    assert set(mapped) | {"reasoner.lm_head.weight"} == set(state)
    for name, tensor in mapped.items():
        assert torch.equal(state[name], tensor.float()), name
    # By value, too: each tensor of the file, memory aside, is somewhere in the model.
    values = [t.flatten() for t in state.values()]
    for name, tensor in stored.items():
        if not name.startswith(MEMORY) and "point_embeddings" not in name:
            flat = tensor.float().flatten()
            assert any(len(v) == len(flat) and torch.equal(v, flat) for v in values), name
    assert not loaded.training
    assert all(t.dtype == torch.float32 for t in state.values())


def test_point_rows_gaussian_matrix_and_head_go_where_they_belong(loaded: LensModel, stored: Tensors) -> None:
    sam = loaded.segmenter.sam
    for row in range(4):
        expected = stored[f"sam.sam_prompt_encoder.point_embeddings.{row}.weight"][0].float()
        assert torch.equal(sam.prompt_encoder.point_embed.weight[row], expected)
    codes = (
        sam.prompt_encoder.shared_embedding.positional_embedding,
        sam.shared_image_embedding.positional_embedding,
    )
    assert all(torch.equal(code, stored[GAUSSIAN].float()) for code in codes)
    assert codes[0].data_ptr() != codes[1].data_ptr()
    assert loaded.reasoner.lm_head.weight is loaded.language_model.embed_tokens.weight


def test_buffers_that_no_file_holds_are_those_of_a_normally_built_model(loaded: LensModel) -> None:
    normal = dict(LensModel(loaded.config).named_buffers())
    buffers = dict(loaded.named_buffers())
    computed = set(buffers) - set(loaded.state_dict())
    assert any("language_model" in name and "inv_freq" in name for name in computed)
    assert any("visual" in name and "inv_freq" in name for name in computed)
    assert set(normal) == set(buffers)
    for name in computed:
        assert normal[name].abs().sum() > 0
        assert torch.equal(buffers[name], normal[name]), name


def test_bfloat16_is_bit_equal_to_the_file(released_folder: Path, stored: Tensors, loaded: LensModel) -> None:
    model = load_released(released_folder, dtype=torch.bfloat16)
    state = model.state_dict()
    for name, tensor in map_released(stored).items():
        assert state[name].dtype == torch.bfloat16
        assert torch.equal(state[name].view(torch.int16), tensor.view(torch.int16)), name
    computed = {n: b for n, b in model.named_buffers() if n not in state}
    wide = dict(loaded.named_buffers())
    assert all(torch.equal(b, wide[n]) for n, b in computed.items())  # still float32: angles need it
    assert model.reasoner.lm_head.weight is model.language_model.embed_tokens.weight


@pytest.mark.parametrize("case", ["a_single", "b_leftpad", "c_eval"])
def test_sam2_encodes_images_as_the_reference(loaded: LensModel, checker: ModuleType, case: str) -> None:
    call, expected, _ = checker.load_case(GOLDEN, case)
    with torch.inference_mode():
        embedding = loaded.segmenter.encode(call["sam_images"]).embedding
    torch.testing.assert_close(embedding[:, ::8, ::4, ::4], expected["image_embed_s"], atol=1e-4, rtol=0)


def test_config_is_the_paper_s(released_folder: Path, tmp_path: Path) -> None:
    config = released_config(released_folder)
    assert (config.query_positions, config.wording, config.coordinates) == ("sequential", "paper", "absolute")
    assert not config.think
    assert config.image_encoder == "hiera"
    assert config.name == released_folder.name
    assert config.context is not None
    assert (config.context.num_queries, config.context.depth, config.context.num_heads) == (16, 4, 16)
    image = config.image
    assert (image.protocol, image.segmenter_size, image.position_code) == ("refcoco", 1024, False)
    assert image.reasoner_mean == tuple(OPENAI_CLIP_MEAN)
    assert image.reasoner_std == tuple(OPENAI_CLIP_STD)
    assert image.segmenter_mean == pytest.approx(IMAGENET_DEFAULT_MEAN)
    assert image.segmenter_std == pytest.approx(IMAGENET_DEFAULT_STD)
    assert image.segmenter_fit == "squash"
    stray = {"embed_dim", "mlp_ratio", "in_chans", "spatial_patch_size", "model_type"}
    assert stray.isdisjoint(config.reasoner["vision_config"])
    config.save(tmp_path)
    assert LensConfig.from_dict(json.loads((tmp_path / "config.json").read_text())) == config


def test_several_files_with_and_without_an_index_are_one_checkpoint(folder: Path, loaded: LensModel) -> None:
    shard(folder)
    for _ in ("with", "without"):
        state = load_released(folder).state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())
        (folder / INDEX).unlink(missing_ok=True)


def test_a_head_equal_to_the_embedding_is_accepted(folder: Path) -> None:
    change(folder, lambda t: t.update({HEAD: t[EMBEDDING].clone()}))
    set_config(folder, tie_word_embeddings=False)
    model = load_released(folder)
    assert model.reasoner.lm_head.weight is model.language_model.embed_tokens.weight
    assert model.config.reasoner["tie_word_embeddings"] is True


def test_null_in_the_config_means_the_reference_s_defaults(folder: Path) -> None:
    set_config(folder, num_of_query=None, if_use_qwen_connector=None)
    context = released_config(folder).context
    assert context is not None
    assert context.num_queries == 64


def test_a_released_model_can_be_saved_as_one_of_ours(
    released_folder: Path, tmp_path: Path, untrained: tuple[LensModel, PreTrainedTokenizerFast]
) -> None:
    model = load_released(released_folder, dtype=torch.bfloat16)  # tensors that are mapped to one file
    save_model(model, untrained[1], tmp_path, dtype=torch.bfloat16)
    again, _ = load_model(tmp_path, dtype=torch.bfloat16)
    assert again.config == model.config
    assert all(torch.equal(t, again.state_dict()[n]) for n, t in model.state_dict().items())


# ---- the true size

CONFIG_3B = {
    "architectures": ["SAMR1ForConditionalGeneration_qwen2p5"],
    "model_type": "qwen2_vl",
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128000,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "rope_scaling": {"type": "default", "rope_type": "default", "mrope_section": [16, 24, 24]},
    "tie_word_embeddings": True,
    "vocab_size": 151936,
    "num_of_query": 64,
    "if_use_qwen_connector": True,
    "vision_config": {
        "model_type": "qwen2_vl",
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 2048,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
        "embed_dim": 1280,
        "mlp_ratio": 4,
        "in_chans": 3,
    },
}


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> LensModel:
    """Return the 3B without memory, from the config that is stored with its weights."""
    folder = tmp_path_factory.mktemp("LENS-3B")
    (folder / "config.json").write_text(json.dumps(CONFIG_3B))
    with torch.device("meta"):
        return LensModel(released_config(folder))


def test_what_the_shapes_of_the_3b_do_not_tell(full: LensModel) -> None:
    language = full.reasoner.config.text_config
    assert (language.num_attention_heads, language.num_key_value_heads) == (16, 2)
    assert (language.rms_norm_eps, language.rope_parameters["rope_theta"]) == (1e-6, 1e6)
    assert language.rope_parameters["mrope_section"] == [16, 24, 24]
    assert (language.bos_token_id, language.eos_token_id) == (151643, 151645)
    assert full.reasoner.config.image_token_id == 151655
    windowed = [i for i in range(32) if i not in full.reasoner.model.visual.fullatt_block_indexes]
    assert len(windowed) == 28
    assert full.reasoner.model.visual.window_size == 112
    # sam2_hiera_l.yaml: embed_dim 144, num_heads 2 (doubled at each stage), global_att_blocks, window_spec;
    # a stage's first block still has the window of the stage before.
    blocks = full.segmenter.sam.vision_encoder.backbone.blocks
    assert [i for i, block in enumerate(blocks) if block.window_size == 0] == [23, 33, 43]
    windows = {0: 8, 1: 8, 2: 8, 3: 4, 7: 4, 8: 4, 9: 16, 42: 16, 44: 16, 45: 8, 47: 8}
    assert {i: blocks[i].window_size for i in windows} == windows
    heads = [block.attn.num_attention_heads for block in blocks]
    assert heads == [2] * 2 + [4] * 6 + [8] * 36 + [16] * 4
    decoder = full.segmenter.sam.mask_decoder
    assert decoder.dynamic_multimask_via_stability
    assert decoder.dynamic_multimask_stability_delta == 0.05
    assert decoder.dynamic_multimask_stability_thresh == 0.98


def assign(model: LensModel, mapped: Tensors) -> None:
    head = {"reasoner.lm_head.weight": mapped["reasoner.model.language_model.embed_tokens.weight"]}
    model.load_state_dict(mapped | head, strict=True, assign=True)


def test_all_1633_tensors_of_the_3b_are_accounted_for(full: LensModel) -> None:
    shapes = manifest("lens_3b_manifest.json")
    assert len(shapes) == 1633
    mapped = map_released(on_meta(shapes))
    assign(full, mapped)
    dropped = [name for name in shapes if name.startswith(MEMORY)]
    # Four point embeddings become one tensor, one matrix becomes two.
    assert len(mapped) == len(shapes) - len(dropped) - 3 + 1
    assert len(dropped) == 10
    # All elements but those of the dropped tensors, and the matrix twice.
    elements = sum(tensor.numel() for tensor in on_meta(shapes).values())
    assert elements == 4_446_599_634
    unused = sum(tensor.numel() for tensor in on_meta({n: shapes[n] for n in dropped}).values())
    assert sum(tensor.numel() for tensor in mapped.values()) == elements - unused + 2 * 128
    assert len({name for name in map_released({n: torch.empty(0) for n in shapes})}) == len(mapped)


def test_the_147_memory_tensors_of_stage_2_are_dropped_and_no_others(full: LensModel) -> None:
    shapes, extra = manifest("lens_3b_manifest.json"), manifest("lens_3b_manifest_stage2_extra.json")
    assert len(extra) == 147
    mapped = map_released(on_meta(shapes | extra))
    assert set(mapped) == set(map_released(on_meta(shapes)))
    assign(full, mapped)
    for stranger in (
        "sam.memory_attention.layers.4.norm1.weight",
        "sam.memory_encoder.out_proj.scale",
        "sam.obj_ptr_tpos_proj.weight",  # SAM 2.1
        "sam.sam_mask_decoder.extra.weight",
        "model.layers.36.mlp.up_proj.weight",
        "visual.extra",
        "extra",
    ):
        with pytest.raises(RuntimeError, match=r"Unexpected key\(s\)"):
            assign(full, map_released(on_meta(shapes | {stranger: [1]})))


# ---- stages


def birth(tensors: Tensors) -> None:
    """Reset SAM 2 to initial values, as in stage-1 checkpoints, where it was never loaded."""
    for name, tensor in tensors.items():
        if name.startswith("sam."):
            leaf = name.rsplit(".", 1)[-1]
            norm = tensor.dim() == 1 and leaf == "weight"
            tensor.copy_(torch.ones_like(tensor) if norm else torch.randn_like(tensor) * 0.02)
            if leaf == "bias":
                tensor.zero_()


def stage1_random(folder: Path) -> None:
    change(folder, birth)


def stage1_random_but_for_biases(folder: Path) -> None:
    """Write a stage-1 checkpoint with initial values except for the linear layers' biases."""

    def edit(tensors: Tensors) -> None:
        birth(tensors)
        for name, tensor in tensors.items():
            if name.startswith("sam.") and name.endswith((".qkv.bias", ".proj.bias")):
                tensor.fill_(0.1)

    change(folder, edit)


def stage1_absent(folder: Path) -> None:
    change(folder, lambda tensors: [tensors.pop(n) for n in list(tensors) if n.startswith("sam.")])


def stage1_garbage(folder: Path) -> None:
    """Write a stage-1 checkpoint with convolutions and norms in uninitialised memory.

    Linear layers are as transformers initialises them.
    """

    def edit(tensors: Tensors) -> None:
        trained = {name: tensor.clone() for name, tensor in tensors.items()}
        birth(tensors)
        for name, tensor in tensors.items():
            if ".norm" in name:
                tensor.copy_(trained[name])
            if "neck" in name:
                tensor.fill_(float("nan"))

    change(folder, edit)


@pytest.mark.parametrize("make", [stage1_random, stage1_random_but_for_biases, stage1_absent, stage1_garbage])
def test_a_stage_1_checkpoint_needs_sam2_and_takes_it(
    folder: Path, stored: Tensors, loaded: LensModel, make: Callable[[Path], None]
) -> None:
    make(folder)
    with pytest.raises(CheckpointError, match=r"checkpoint of stage 1.*sam2=.*sam2_hiera_large\.pt"):
        load_released(folder)
    memory = {n: torch.zeros(s) for n, s in manifest("lens_3b_manifest_stage2_extra.json").items()}
    model = load_released(folder, sam2=save_pt(folder / "sam2.pt", stored | memory))
    assert all(torch.equal(t, model.state_dict()[n]) for n, t in loaded.state_dict().items())


def test_sam2_replaces_a_trained_one_and_may_be_safetensors(folder: Path, stored: Tensors) -> None:
    own = {n.removeprefix("sam."): t * 2 for n, t in stored.items() if n.startswith("sam.")}
    save_file(own, folder / "sam2_hiera_large.safetensors")
    model = load_released(folder, sam2=folder / "sam2_hiera_large.safetensors")
    norm = model.segmenter.sam.vision_encoder.backbone.blocks[1].layer_norm1.weight
    assert torch.equal(norm, stored[NORM].float() * 2)
    assert torch.equal(model.context.learnable_query, stored["learnable_query"].float())


class Malice:
    """Object that writes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.trace,)


def test_a_sam2_file_cannot_execute_code(released_folder: Path, stored: Tensors, tmp_path: Path) -> None:
    torch.save({"model": dict(stored), "extra": Malice(tmp_path / "trace")}, tmp_path / "sam2.pt")
    with pytest.raises(CheckpointError, match="never loaded") as caught:
        load_released(released_folder, sam2=tmp_path / "sam2.pt")
    assert "weights_only=False" not in str(caught.value)
    assert not (tmp_path / "trace").exists()
    torch.load(tmp_path / "sam2.pt", weights_only=False)  # the trap works
    assert (tmp_path / "trace").exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model.pt"])
def test_pickled_weights_of_a_folder_are_never_opened(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / WEIGHTS).unlink()
    torch.save({"model": Malice(tmp_path / "trace")}, folder / name)
    with pytest.raises(CheckpointError, match=rf"pickles \({name}\).*execute code.*safetensors"):
        load_released(folder)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (lambda p, t: None, "is missing"),
        (lambda p, t: p.write_bytes(b"PK nonsense"), "damaged"),
        (lambda p, t: p.write_bytes(b""), "damaged"),
        (lambda p, t: p.write_bytes(save_pt(p, t).read_bytes()[:-5000]), "damaged"),
        (lambda p, t: torch.save(dict(t), p), "key 'model'"),
        (lambda p, t: torch.save([1, 2], p), "key 'model'"),
        (lambda p, t: torch.save({"model": {"a": 1}}, p), "key 'model'"),
        (lambda p, t: save_pt(p, {n: x for n, x in t.items() if n != NORM}), f"1 missing: {NORM}"),
        (lambda p, t: save_pt(p, t | {"sam.no_obj_embed_spatial": t[NORM]}), "1 unexpected: sam.no_obj_emb"),
    ],
)
def test_a_wrong_sam2_file_is_named(
    released_folder: Path,
    stored: Tensors,
    tmp_path: Path,
    write: Callable[[Path, Tensors], object],
    told: str,
) -> None:
    write(tmp_path / "sam2.pt", stored)
    with pytest.raises(CheckpointError, match=told) as caught:
        load_released(released_folder, sam2=tmp_path / "sam2.pt")
    assert str(tmp_path / "sam2.pt") in str(caught.value)


# ---- damage


def change(folder: Path, edit: Callable[[Tensors], object]) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
    edit(tensors)
    save_file(tensors, folder / WEIGHTS)


def drop(folder: Path, names: Iterable[str]) -> None:
    change(folder, lambda tensors: [tensors.pop(name) for name in names])


def set_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def drop_config(folder: Path, name: str) -> None:
    path = folder / "config.json"
    values = json.loads(path.read_text())
    del values[name]
    path.write_text(json.dumps(values))


def truncate(folder: Path, share: float) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: int(len(data) * share)])


def shard(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    weight_map = {}
    for part in range(3):
        file = f"model-0000{part + 1}-of-00003.safetensors"
        names = list(tensors)[part::3]
        save_file({name: tensors[name].clone() for name in names}, folder / file)
        weight_map |= dict.fromkeys(names, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def lose_shard(folder: Path, *, index: bool) -> None:
    shard(folder)
    (folder / "model-00002-of-00003.safetensors").unlink()
    if not index:
        (folder / INDEX).unlink()


def both_forms(folder: Path, *, index: bool) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    shard(folder)
    (folder / WEIGHTS).write_bytes(whole)
    if not index:
        (folder / INDEX).unlink()


def swap_vision(folder: Path, **values: object) -> None:
    vision = json.loads((folder / "config.json").read_text())["vision_config"]
    set_config(folder, vision_config={k: v for k, v in (vision | values).items() if v is not None})


MROPE = {"type": "default", "mrope_section": [4, 6, 6]}
CONNECTOR = "connector.blocks.0.mlp.fc1.bias"


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        # config.json
        (lambda f: (f / "config.json").unlink(), r"config\.json is missing"),
        (lambda f: shutil.rmtree(f), r"config\.json is missing"),
        (lambda f: (f / "config.json").write_text("{"), "not readable as JSON"),
        (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), "not readable as JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "no JSON object"),
        (lambda f: (f / "config.json").write_text("{}"), "no field 'architectures'"),
        (lambda f: set_config(f, architectures=None), "architectures is null"),
        (lambda f: set_config(f, architectures=["SAMR1ForConditionalGeneration"]), "2B variant on Qwen2-VL"),
        (lambda f: set_config(f, if_use_qwen_connector=False), "without connector"),
        (lambda f: set_config(f, num_of_query=0), "num_of_query is 0"),
        (lambda f: set_config(f, num_of_query="64"), 'num_of_query is "64"'),
        (lambda f: drop_config(f, "hidden_size"), "no field 'hidden_size'"),
        (lambda f: drop_config(f, "rms_norm_eps"), "no field 'rms_norm_eps'"),
        (lambda f: drop_config(f, "image_token_id"), "no field 'image_token_id'"),
        (lambda f: drop_config(f, "tie_word_embeddings"), "no field 'tie_word_embeddings'"),
        (lambda f: drop_config(f, "vision_config"), "no field 'vision_config'"),
        (lambda f: swap_vision(f, fullatt_block_indexes=None), "no field 'fullatt_block_indexes'"),
        (lambda f: set_config(f, hidden_size="128"), 'hidden_size is "128"'),
        (lambda f: set_config(f, vocab_size=1024.5), "impossible value(.|\n)*vocab_size"),
        (lambda f: swap_vision(f, depth="two"), "impossible value(.|\n)*depth"),
        (lambda f: swap_vision(f, num_heads=0), "no network that can be built"),
        (lambda f: set_config(f, num_attention_heads=8), "contradict each other"),
        (lambda f: set_config(f, rope_scaling=None), "rope_scaling is null"),
        (lambda f: set_config(f, rope_scaling=MROPE | {"mrope_section": [4, "6", 6]}), "contradict"),
        (lambda f: set_config(f, rope_scaling=MROPE | {"type": "yarn"}), "of type 'yarn'"),
        (lambda f: (f / "sam2_config.json").write_text('{"image_size": 1024}'), "sam2_config.json has no fi"),
        # files
        (lambda f: (f / WEIGHTS).unlink(), "holds no weights: expected model.safetensors"),
        (lambda f: truncate(f, 0.5), r"model\.safetensors \(\d+ bytes\) is damaged"),
        (lambda f: truncate(f, 0.0), r"\(0 bytes\) is damaged"),
        (lambda f: (f / WEIGHTS).write_text("version https://git-lfs"), "is damaged"),
        (lambda f: lose_shard(f, index=True), "does not hold: model-00002-of-00003.safetensors"),
        (lambda f: lose_shard(f, index=False), r"missing: (.|\n)* more"),
        (lambda f: both_forms(f, index=True), "does not name: model.safetensors"),
        (lambda f: both_forms(f, index=False), "another file both hold"),
        (lambda f: (f / INDEX).write_text("{"), "index.json is not readable as JSON"),
        (lambda f: (f / INDEX).write_text("{}"), "no field 'weight_map'"),
        (lambda f: (f / INDEX).write_text('{"weight_map": {}}'), "none at all"),
        (lambda f: (f / INDEX).write_text('{"weight_map": {"a": "../x.safetensors"}}'), "not hold: ../x"),
        # tensors
        (lambda f: drop(f, [CONNECTOR]), f"1 missing: {CONNECTOR}[;)]"),
        (lambda f: drop(f, [POINT]), f"1 missing: {POINT}[;)]"),
        (lambda f: drop(f, [GAUSSIAN]), f"1 missing: {GAUSSIAN}[;)]"),
        (lambda f: drop(f, [EMBEDDING]), f"1 missing: {EMBEDDING}[;)]"),
        (lambda f: drop(f, [NORM]), f"1 missing: {NORM}"),
        (lambda f: change(f, lambda t: t.update(stray=torch.zeros(1))), "1 unexpected: stray[;)]"),
        (
            lambda f: change(f, lambda t: t.update({"model.layers.2.mlp.x": torch.zeros(1)})),
            r"1 unexpected: model\.layers\.2\.mlp\.x[;)]",
        ),
        (
            lambda f: change(f, lambda t: t.update({"context.learnable_query": torch.zeros(1, 16, 128)})),
            r"1 unexpected: context\.learnable_query[;)]",
        ),
        (
            lambda f: change(f, lambda t: t.update({POINT: torch.zeros(1, 128)})),
            rf"1 misshapen: {POINT} \(1, 128\) instead of \(1, 256\)[;)]",
        ),
        (lambda f: set_config(f, num_of_query=64), "3 misshapen: learnable_query"),
        (
            lambda f: change(f, lambda t: t.update({CONNECTOR: t[CONNECTOR].to(torch.int8)})),
            rf"1 not floating-point: {CONNECTOR} \(int8\)[;)]",
        ),
        (
            lambda f: change(f, lambda t: t.update({NORM: t[NORM].to(torch.float8_e4m3fn)})),
            rf"1 not floating-point: {NORM} \(float8_e4m3fn\)[;)]",
        ),
        (lambda f: change(f, lambda t: t[NORM][3:4].fill_(torch.nan)), f"1 not finite as float32: {NORM}"),
        (
            lambda f: change(f, lambda t: t[EMBEDDING][7, 7:8].fill_(-torch.inf)),
            f"1 not finite as float32: {EMBEDDING}[;)]",
        ),
        # the language head
        (
            lambda f: change(f, lambda t: t.update({HEAD: t[EMBEDDING] * 2})),
            f"1 not equal to {EMBEDDING}.*: {HEAD}[;)]",
        ),
        (lambda f: change(f, lambda t: t.update({HEAD: torch.zeros(2, 2)})), rf"misshapen: {HEAD} \(2, 2\)"),
        (lambda f: set_config(f, tie_word_embeddings=False), f"1 missing: {HEAD}[;)]"),
    ],
)
def test_damage_is_named(folder: Path, damage: Callable[[Path], object], told: str) -> None:
    damage(folder)
    with pytest.raises(CheckpointError, match=told) as caught:
        load_released(folder)
    assert str(folder) in str(caught.value)


def test_all_faults_are_told_at_once_and_long_lists_are_cut(folder: Path) -> None:
    moved = [name for name in load_file(folder / WEIGHTS) if name.startswith("visual.blocks.")]
    assert len(moved) > 20

    def edit(tensors: Tensors) -> None:
        for name in moved:
            tensors[f"x.{name}"] = tensors.pop(name)
        tensors["learnable_query"][:] = torch.nan
        tensors[CONNECTOR] = tensors[CONNECTOR].to(torch.int32)
        tensors[POINT] = tensors[POINT][0].clone()

    change(folder, edit)
    with pytest.raises(CheckpointError) as caught:
        load_released(folder)
    told = str(caught.value)
    assert f"{len(moved)} missing: visual.blocks.0" in told
    assert f"{len(moved)} unexpected: x.visual.blocks." in told
    assert f"1 misshapen: {POINT} (256,)" in told
    assert f"1 not floating-point: {CONNECTOR} (int32)" in told
    assert "1 not finite as float32: learnable_query" in told
    assert told.count(f" and {len(moved) - 20} more") == 2
    assert told.count("x.visual.") == 20


def test_values_too_large_for_the_wanted_precision_are_refused(folder: Path) -> None:
    change(folder, lambda t: t[NORM].fill_(1e6))
    load_released(folder, dtype=torch.bfloat16)
    with pytest.raises(CheckpointError, match=f"1 not finite as float16: {NORM}"):
        load_released(folder, dtype=torch.float16)
