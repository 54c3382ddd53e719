"""End-to-end tests of models converted from other people's files, from the command to the mask."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import tokenizers
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, Qwen2VLImageProcessorPil

from lens_ros.cli import main
from lens_ros.lens import Lens
from lens_ros.model.box_prompted import combine
from lens_ros.model.checkpoint import find_model, load_model
from lens_ros.model.errors import CheckpointError
from lens_ros.model.released import load_released
from lens_ros.model.sam import SamSegmenter, SamSizes
from tests.full_pass import full_pass

TINY_SAM = SamSizes(64, 2, 2, (1,), image_size=256, prompt_width=32)
# Ids of the golden checkpoint; other tokens are words without a meaning.
SPECIAL = {
    "<|endoftext|>": 1000, "<|im_end|>": 1001, "<|vision_start|>": 1002, "<|vision_end|>": 1003,
    "<|vision_pad|>": 1004, "<|image_pad|>": 1005, "<|video_pad|>": 1006, "<|im_start|>": 1007,
}  # fmt: skip


@pytest.fixture(scope="module")
def released(released_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the golden checkpoint with a tokenizer as in a released folder: bytes and special tokens."""
    folder = Path(shutil.copytree(released_folder, tmp_path_factory.mktemp("released") / "lens-tiny"))
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: k for k, letter in enumerate(alphabet)} | SPECIAL
    core = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges=[]))
    core.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = tokenizers.decoders.ByteLevel()
    core.add_special_tokens([tokenizers.AddedToken(token, special=True) for token in SPECIAL])
    words = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    words.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def rgb() -> np.ndarray:
    """Return a structured, non-square picture ``(90, 150, 3)`` uint8."""
    small = np.random.default_rng(2).integers(0, 256, (9, 15, 3), dtype=np.uint8)
    return cv2.resize(small, (150, 90), interpolation=cv2.INTER_CUBIC)


@torch.inference_mode()
def mask_of_the_reference(folder: Path, rgb: np.ndarray, instruction: str, new_tokens: int) -> np.ndarray:
    """Run the reference's demo step by step with transformers: processor, generate, full second pass."""
    model, words = load_released(folder), PreTrainedTokenizerFast.from_pretrained(folder)
    image = Image.fromarray(rgb)
    processor = Qwen2VLImageProcessorPil(min_pixels=3136, max_pixels=1_000_000)
    seen = processor(images=[image], return_tensors="pt")
    pixels, grid = torch.as_tensor(seen["pixel_values"]), torch.as_tensor(seen["image_grid_thw"])
    count = int(grid.prod()) // 4
    text = (
        "<|im_start|>system\nYou are a helpful assistant. <|im_end|>\n<|im_start|>user\n<|vision_start|>"
        + "<|image_pad|>" * count
        + f"<|vision_end|>Output the bounding box of the {instruction} in the image.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    prompt = torch.tensor([words.encode(text, add_special_tokens=False)])
    ids = model.reasoner.generate(
        input_ids=prompt, attention_mask=torch.ones_like(prompt), pixel_values=pixels, image_grid_thw=grid,
        mm_token_type_ids=(prompt == SPECIAL["<|image_pad|>"]).long(), max_new_tokens=new_tokens,
        do_sample=False, eos_token_id=[1000, 1001], pad_token_id=1000,
    )  # fmt: skip
    visual = model.reasoner.model.visual(pixels, grid_thw=grid).pooler_output
    rows, cols = int(grid[0, 1]) // 2, int(grid[0, 2]) // 2
    read = full_pass(model, ids, (ids != 1000).long(), visual, [(rows, cols)])
    square = torch.from_numpy(np.array(image.resize((1024, 1024), Image.Resampling.BILINEAR)))
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    features = model.segmenter.encode(((square - mean) / std).permute(2, 0, 1)[None])
    logits, _ = model.decode(features, model.context_module()(read.queries))
    full = F.interpolate(logits, size=rgb.shape[:2], mode="bilinear", align_corners=False)
    return (full[0, 0] > 0).numpy()


def test_a_converted_checkpoint_gives_the_masks_of_the_references_flow(
    released: Path, rgb: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "converted"
    assert main(["convert-released", str(released), str(out)]) == 0
    assert "M parameters" in capsys.readouterr().out
    lens = Lens.from_pretrained(out)
    asked = ["mug", "left bowl", "can behind the box"]
    answers = lens.segment_all(rgb, asked, max_new_tokens=12)
    for instruction, answer in zip(asked, answers, strict=True):
        expected = mask_of_the_reference(released, rgb, instruction, 12)
        assert 0.01 < expected.mean() < 0.99
        assert answer.unchecked_mask is not None
        assert (answer.unchecked_mask == expected).mean() > 0.999
    assert len({answer.unchecked_mask.tobytes() for answer in answers}) == 3


def test_conversion_keeps_every_bit_and_the_choices_made(released: Path, tmp_path: Path) -> None:
    out = tmp_path / "converted"
    options = ["--protocol", "reasonseg", "--think"]
    assert main(["convert-released", str(released), str(out), *options]) == 0
    model, _ = load_model(out, dtype=torch.bfloat16)
    original = load_released(released, dtype=torch.bfloat16)
    for name, tensor in original.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    assert model.config.image.protocol == "reasonseg" and model.config.think
    assert model.config.query_positions == "sequential" and model.config.wording == "paper"


@pytest.mark.parametrize(
    ("missing", "told"),
    [("tokenizer.json", "tokenizer"), ("config.json", "config.json"), ("model.safetensors", "no weights")],
)
def test_what_a_released_folder_lacks_is_named(
    released: Path, tmp_path: Path, missing: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(released, tmp_path / "folder"))
    (folder / missing).unlink()
    assert main(["convert-released", str(folder), str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert told in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()


def tiny_sam() -> SamSegmenter:
    """Return a random SAM whose logits have a useful size."""
    torch.manual_seed(4)
    segmenter = SamSegmenter(TINY_SAM).eval()
    with torch.no_grad():
        for parameter in segmenter.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return segmenter


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Write a Qwen2.5-VL as published (lens-nano's reasoner) and a SAM file."""
    folder = tmp_path_factory.mktemp("parts")
    model, words = load_model(find_model("lens-nano"))
    model.reasoner.save_pretrained(folder / "qwen")
    words.save_pretrained(folder / "qwen")
    torch.save(tiny_sam().sam.state_dict(), folder / "tiny_sam.pth")
    return folder / "qwen", folder / "tiny_sam.pth"


def test_any_qwen_and_a_sam_make_a_model(parts: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "combined"
    assert main(["combine", *map(str, parts), str(out)]) == 0
    model, _ = load_model(out)
    assert model.context is None and model.config.image.segmenter_fit == "letterbox"
    nano = load_model(find_model("lens-nano"))[0]
    for name, tensor in nano.reasoner.state_dict().items():
        assert torch.equal(tensor.bfloat16().float(), model.reasoner.state_dict()[name]), name
    for name, tensor in tiny_sam().sam.state_dict().items():
        assert torch.equal(tensor.bfloat16().float(), model.segmenter.sam.state_dict()[name]), name


def test_the_boxes_of_the_answer_prompt_sam(parts: tuple[Path, Path], demo_image: np.ndarray) -> None:
    model = combine(*parts)
    nano, words = load_model(find_model("lens-nano"))
    # lens-nano's reasoner is used to its own words and pictures.
    seen_as = dataclasses.replace(
        nano.config.image, segmenter_size=256, segmenter_fit="letterbox",
        segmenter_mean=model.config.image.segmenter_mean, segmenter_std=model.config.image.segmenter_std,
    )  # fmt: skip
    model.config = dataclasses.replace(model.config, image=seen_as, wording="tabletop", think=True)
    answer = Lens(model, words).segment(demo_image, "the blue mug")
    by_context = Lens(nano, words).segment(demo_image, "the blue mug")
    assert answer.answer == by_context.answer and answer.unchecked_mask is None
    [found] = answer.instances
    box = json.loads(answer.answer.split("<answer>")[1].split("</answer>")[0])[0]["bbox_2d"]
    # SAM by hand: 640x480 letterboxed to 256x192, logits to 256, cut, to 480x640.
    picture = np.asarray(Image.fromarray(demo_image).resize((256, 192), Image.Resampling.BILINEAR))
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    pixels = F.pad(((torch.from_numpy(picture.copy()) - mean) / std).permute(2, 0, 1)[None], (0, 0, 0, 64))
    x1, y1, x2, y2 = (v / 224 for v in box)
    prompt = torch.tensor([[[x1 * 256, y1 * 192, x2 * 256, y2 * 192]]])
    sam = tiny_sam()
    with torch.inference_mode():
        logits, _ = sam.decode(sam.encode(pixels), sam.box_prompts(prompt))
        square = F.interpolate(logits, size=(256, 256), mode="bilinear", align_corners=False)
        full = F.interpolate(square[..., :192, :], size=(480, 640), mode="bilinear", align_corners=False)
    expected = (full[0, 0] > 0).numpy()
    assert 0 < expected.mean() < 1
    assert (found.mask == expected).mean() > 0.999


def rename_type(qwen: Path) -> None:
    config = json.loads((qwen / "config.json").read_text())
    (qwen / "config.json").write_text(json.dumps({**config, "model_type": "qwen2_vl"}))


def edit_weights(qwen: Path, edit) -> None:
    tensors = load_file(qwen / "model.safetensors")
    edit(tensors)
    save_file(tensors, qwen / "model.safetensors", metadata={"format": "pt"})


def truncate(qwen: Path) -> None:
    data = (qwen / "model.safetensors").read_bytes()
    (qwen / "model.safetensors").write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda f: (f / "config.json").unlink(), "holds no config.json"),
        (rename_type, "type 'qwen2_vl'; expected 'qwen2_5_vl'"),
        (truncate, "cannot be read as a Qwen2.5-VL"),
        (lambda f: (f / "model.safetensors").unlink(), "cannot be read as a Qwen2.5-VL"),
        (lambda f: edit_weights(f, lambda t: t.pop("model.norm.weight")), "1 missing_keys"),
        (lambda f: edit_weights(f, lambda t: t.update(stray=torch.zeros(2))), "1 unexpected_keys: stray"),
    ],
)
def test_a_damaged_reasoner_is_named(parts: tuple[Path, Path], tmp_path: Path, damage, told: str) -> None:
    qwen = Path(shutil.copytree(parts[0], tmp_path / "qwen"))
    damage(qwen)
    with pytest.raises(CheckpointError, match=told):
        combine(qwen, parts[1])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (
            {"model": {"image_encoder.trunk.pos_embed": torch.zeros(1)}, "epoch": 3},
            "'model'.*'image_encoder.trunk",
        ),
        ({"state_dict": {"module.x": torch.zeros(1)}}, "'state_dict' .a dictionary with the keys 'module.x'"),
        (
            {"vision_encoder.pos_embed": torch.zeros(1)},
            "no tensor 'image_encoder.pos_embed' among 1: vision_enc",
        ),
        ({"epoch": 3, "loss": 0.5}, "'epoch' .a int., 'loss' .a float."),
        ([torch.zeros(1)], "by name: a list"),
        (torch.zeros(1), "by name: a Tensor"),
    ],
)
def test_a_sam_of_another_form_is_named_before_the_reasoner_is_read(
    tmp_path: Path, content: object, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(content, tmp_path / "sam.pth")
    nowhere = tmp_path / "no qwen"
    assert main(["combine", str(nowhere), str(tmp_path / "sam.pth"), str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert re.search(told, error) and error.count("\n") == 1
    with pytest.raises(CheckpointError, match=told):
        combine(nowhere, tmp_path / "sam.pth")
