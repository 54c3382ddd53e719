"""SAM for the box-prompted path, compared with the package's predictor and builders; invalid files."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import importlib.util
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedTokenizerFast

from lens_ros.evaluation.metrics import mask_iou
from lens_ros.instances import Instance, box_of
from lens_ros.lens import Lens
from lens_ros.model import sam as module
from lens_ros.model.config import ImageConfig
from lens_ros.model.errors import CheckpointError
from lens_ros.model.images import segmenter_boxes, segmenter_inputs, segmenter_picture, upsample
from lens_ros.model.network import LensModel
from lens_ros.model.sam import SamSegmenter, SamSizes, read_sam, sam_sizes
from lens_ros.segmentation import Segmentation
from lens_ros.tracking.tracker import Checks, Tracker

SMALL = SamSizes(32, 2, 2, global_attention=(1,), image_size=256, prompt_width=32)
IMAGE = ImageConfig(
    segmenter_size=256,
    segmenter_fit="letterbox",
    segmenter_mean=(0.485, 0.456, 0.406),
    segmenter_std=(0.229, 0.224, 0.225),
)


def random_sam(sizes: SamSizes = SMALL) -> SamSegmenter:
    """Return a SAM with every weight random.

    The package leaves position codes at zero, where they cannot be distinguished.
    """
    torch.manual_seed(0)
    segmenter = SamSegmenter(sizes).eval()
    with torch.no_grad():
        for parameter in segmenter.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        quality = segmenter.sam.mask_decoder.iou_prediction_head.layers[-1]
        quality.weight.mul_(0.01)
        quality.bias.fill_(0.5)  # inside 0..1, so that clamping hides nothing
    return segmenter


@pytest.fixture(scope="module")
def segmenter() -> SamSegmenter:
    return random_sam()


# --- against the package


PREDICTOR = """
import sys, types
from pathlib import Path
import numpy as np, torch
from PIL import Image
from lens_ros.model.sam import SamSegmenter, SamSizes

folder, torchvision = Path(sys.argv[1]), sys.argv[2]
given = torch.load(folder / "given.pt", weights_only=True)
segmenter = SamSegmenter(SamSizes(**given["sizes"])).eval()
segmenter.load_state_dict(given["weights"])
assert "segment_anything" not in sys.modules
if torchvision == "stand-in":  # what the package uses of it here, on PIL images as torchvision does it
    parts = {name: types.ModuleType(name) for name in (
        "torchvision", "torchvision.transforms", "torchvision.transforms.functional",
        "torchvision.ops", "torchvision.ops.boxes")}
    functional = parts["torchvision.transforms.functional"]
    functional.to_pil_image = Image.fromarray
    functional.resize = lambda image, size: image.resize(size[::-1], Image.Resampling.BILINEAR)
    parts["torchvision.ops.boxes"].batched_nms = parts["torchvision.ops.boxes"].box_area = None
    sys.modules.update(parts)
import segment_anything

assert "segment_anything.modeling" in sys.modules and "segment_anything.predictor" in sys.modules
predictor = segment_anything.SamPredictor(segmenter.sam)
results, requests = [], []
for rgb, boxes in zip(given["images"], given["boxes"]):
    rgb, size = rgb.numpy(), tuple(rgb.shape[:2])
    predictor.set_image(rgb)
    moved = torch.from_numpy(predictor.transform.apply_boxes(boxes.numpy(), size)).float()
    logits, iou, low = predictor.predict_torch(None, None, moved, multimask_output=False, return_logits=True)
    picture = torch.from_numpy(predictor.transform.apply_image(rgb))
    requests.append({"image": picture.permute(2, 0, 1), "original_size": size, "boxes": moved})
    pixels = segmenter.sam.preprocess(requests[-1]["image"])
    results.append({"picture": picture, "pixels": pixels, "boxes": moved, "logits": logits[:, 0],
                    "iou": iou[:, 0], "embedding": predictor.get_image_embedding(), "low": low[:, 0]})
for result, output in zip(results, segmenter.sam(requests, multimask_output=False)):
    result["masks"] = output["masks"][:, 0]
torch.save(results, folder / "results.pt")
"""


@pytest.mark.parametrize("torchvision", ["stand-in", "torchvision"])
def test_the_whole_way_equals_the_packages_predictor(
    segmenter: SamSegmenter, tmp_path: Path, torchvision: str
) -> None:
    if torchvision == "torchvision" and importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed; the stand-in was compared with")
    rng = np.random.default_rng(0)
    # wide, tall, larger than the square, with a side that scales to x.5 (3.5 * 256 / 448), square as it is
    shapes = [(120, 200), (211, 97), (900, 1300), (77, 448), (256, 256)]
    images = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    corners = [np.sort(rng.random((3, 2, 2)), axis=1).reshape(3, 4) for _ in shapes]
    fractions = [torch.from_numpy(boxes).float() for boxes in corners]
    given = {
        "sizes": dataclasses.asdict(SMALL),
        "weights": segmenter.state_dict(),
        "images": [torch.from_numpy(rgb) for rgb in images],
        "boxes": [f * torch.tensor([w, h, w, h]) for f, (h, w) in zip(fractions, shapes, strict=True)],
    }
    torch.save(given, tmp_path / "given.pt")
    command = [sys.executable, "-c", PREDICTOR, str(tmp_path), torchvision]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = torch.load(tmp_path / "results.pt", weights_only=True)

    assert len(expected) == len(shapes)
    for rgb, boxes, theirs in zip(images, fractions, expected, strict=True):
        size = rgb.shape[:2]
        picture = torch.from_numpy(segmenter_picture(rgb, IMAGE).copy())
        assert torch.equal(picture, theirs["picture"])
        pixels = segmenter_inputs(picture[None], IMAGE)
        torch.testing.assert_close(pixels[0], theirs["pixels"], atol=1e-5, rtol=0)
        placed = segmenter_boxes(boxes, size, IMAGE)
        torch.testing.assert_close(placed, theirs["boxes"], atol=1e-3, rtol=0)
        with torch.inference_mode():
            features = segmenter.encode(pixels)
            logits, iou = segmenter.decode(features, segmenter.box_prompts(placed[None]))
        assert features.high_resolution == ()
        torch.testing.assert_close(features.embedding, theirs["embedding"], atol=1e-4, rtol=0)
        torch.testing.assert_close(logits[0], theirs["low"], atol=1e-4, rtol=0)
        assert logits.abs().amax() > 0.1  # otherwise the tolerance would accept anything
        assert 0 < iou.min() < iou.max() < 1
        torch.testing.assert_close(iou[0], theirs["iou"], atol=1e-5, rtol=0)
        final = upsample(logits[0], size, IMAGE)
        torch.testing.assert_close(final, theirs["logits"], atol=1e-4, rtol=0)
        assert ((final > 0) != theirs["masks"]).float().mean() < 1e-4


@pytest.mark.parametrize(("name", "millions"), [("vit_b", 93.7), ("vit_l", 312.3), ("vit_h", 641.1)])
def test_released_sizes_are_recovered_and_built_as_the_package_does(name: str, millions: float) -> None:
    module._modeling()
    builders = importlib.import_module(f"{module._PACKAGE}.build_sam").sam_model_registry
    with torch.device("meta"):
        theirs = builders[name]()
        sizes = sam_sizes(theirs.state_dict())
        ours = SamSegmenter(sizes).eval().sam
    assert sum(p.numel() for p in theirs.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)
    assert {n: t.shape for n, t in ours.state_dict().items()} == {
        n: t.shape for n, t in theirs.state_dict().items()
    }
    assert repr(ours) == repr(theirs)
    assert settings(ours) == settings(theirs)


def settings(network: nn.Module) -> dict[str, dict[str, Any]]:
    """Return the numbers that modules hold in addition to tensors: heads, windows, epsilons, sizes."""
    return {
        name: {k: v for k, v in vars(part).items() if isinstance(v, int | float | tuple)}
        for name, part in network.named_modules()
    }


# --- sizes


@pytest.mark.parametrize(
    "sizes",
    [
        SMALL,
        SamSizes(48, 3, 3, global_attention=(0, 2), image_size=192, prompt_width=48, window_size=5),
        SamSizes(64, 2, 4, global_attention=(), image_size=128, prompt_width=16, window_size=3),
        SamSizes(32, 12, 1, global_attention=(10, 11), image_size=64, prompt_width=32, window_size=2),
    ],
)
def test_odd_sizes_are_recovered(sizes: SamSizes) -> None:
    with torch.device("meta"):
        stored = SamSegmenter(sizes).sam.state_dict()
    assert sam_sizes(stored) == sizes


def test_windows_as_large_as_the_picture_are_global_attention() -> None:
    written = random_sam(SamSizes(32, 2, 2, global_attention=(), image_size=224, prompt_width=32))
    sizes = sam_sizes(written.sam.state_dict())
    assert sizes.global_attention == (0, 1)
    read = SamSegmenter(sizes)
    read.load_state_dict(written.state_dict())
    pixels = torch.randn(1, 3, 224, 224)
    torch.testing.assert_close(
        read.encode(pixels).embedding, written.encode(pixels).embedding, atol=1e-5, rtol=0
    )


def test_sizes_survive_json() -> None:
    assert SamSizes(**json.loads(json.dumps(dataclasses.asdict(SMALL)))) == SMALL


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"encoder_width": 33}, "encoder_width 33 is not a multiple of 2"),
        ({"image_size": 250}, "image_size 250 is not a multiple of 16"),
        ({"prompt_width": 24}, "prompt_width 24 is not a multiple of 16"),
    ],
)
def test_impossible_sizes_are_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        dataclasses.replace(SMALL, **wrong)


# --- what comes out


def decoded(segmenter: SamSegmenter, pixels: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Return logits and predicted IoU of one call, ``(B, N, S/4 * S/4 + 1)``."""
    with torch.inference_mode():
        logits, iou = segmenter.decode(segmenter.encode(pixels), segmenter.box_prompts(boxes))
    return torch.cat([logits.flatten(2), iou[..., None]], dim=2)


def test_batches_and_many_prompts_equal_one_at_a_time(segmenter: SamSegmenter) -> None:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(2, 3, 256, 256, generator=generator)
    boxes = torch.rand(2, 3, 4, generator=generator) * 128 + torch.tensor([0, 0, 128, 128])
    assert segmenter.box_prompts(boxes).shape == (2, 3, 2, segmenter.prompt_width)
    together = decoded(segmenter, pixels, boxes)
    assert together.shape == (2, 3, 64 * 64 + 1)
    for image in range(2):
        for prompt in range(3):
            alone = decoded(segmenter, pixels[image, None], boxes[image, prompt].view(1, 1, 4))
            torch.testing.assert_close(together[image, prompt], alone[0, 0], atol=1e-4, rtol=0)
    assert (together[0, 0] - together[0, 1]).abs().max() > 0.01  # the prompt matters
    assert (together[0, 0] - together[1, 0]).abs().max() > 0.01


def test_mask_prompts_equal_the_packages_own(segmenter: SamSegmenter) -> None:
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randn(1, 3, 256, 256, generator=generator)
    boxes = torch.rand(1, 3, 4, generator=generator) * 128 + torch.tensor([0, 0, 128, 128])
    previous = 5 * torch.randn(1, 3, 64, 64, generator=generator)
    with torch.inference_mode():
        features = segmenter.encode(pixels)
        logits, iou = segmenter.decode(features, segmenter.box_prompts(boxes), previous)
        sparse, dense = segmenter.sam.prompt_encoder(points=None, boxes=boxes[0], masks=previous[0][:, None])
        theirs, their_iou = segmenter.sam.mask_decoder(
            image_embeddings=features.embedding,
            image_pe=segmenter.sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        without, _ = segmenter.decode(features, segmenter.box_prompts(boxes))
    torch.testing.assert_close(logits[0], theirs[:, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(iou[0], their_iou[:, 0].clamp(0, 1), atol=1e-5, rtol=0)
    assert (logits - without).abs().max() > 0.01


def brightness_sam() -> SamSegmenter:
    """Return a SAM whose mask is what is brighter than SAM's mean colour, per patch, for any prompt."""
    segmenter = SamSegmenter(SMALL).eval()
    norms = {nn.LayerNorm, type(segmenter.sam.image_encoder.neck[1])}
    encoder, decoder = segmenter.sam.image_encoder, segmenter.sam.mask_decoder
    with torch.no_grad():
        for part in segmenter.modules():
            for name, parameter in part.named_parameters(recurse=False):
                parameter.fill_(float(type(part) in norms and name == "weight"))
        encoder.patch_embed.proj.weight[0] = 1 / (3 * 16 * 16)  # a patch's mean; blocks let it pass unchanged
        both_signs = torch.tensor([1.0, -1.0])  # a lone value would not outlive the normalisations
        encoder.neck[0].weight[:2, 0, 0, 0] = both_signs
        encoder.neck[2].weight[range(2), range(2), 1, 1] = 1
        decoder.output_upscaling[0].weight[range(2), range(2)] = 1
        decoder.output_upscaling[3].weight[0, :2] = both_signs[:, None, None]
        decoder.output_upscaling[3].weight[1, :2] = -both_signs[:, None, None]
        decoder.output_hypernetworks_mlps[0].layers[-1].bias[:2] = both_signs
    return segmenter


@pytest.mark.parametrize("shape", [(300, 400), (400, 300), (400, 400), (60, 80), (800, 600)])
def test_the_mask_lies_where_the_object_is(shape: tuple[int, int]) -> None:
    patch = max(shape) // 16  # the longer side is 16 patches
    rows, cols = slice(4 * patch, 8 * patch), slice(5 * patch, 11 * patch)
    truth = np.zeros(shape, dtype=bool)
    truth[rows, cols] = True
    rgb = truth[..., None].repeat(3, axis=2).astype(np.uint8) * 255
    segmenter = brightness_sam()
    pixels = segmenter_inputs(torch.from_numpy(segmenter_picture(rgb, IMAGE).copy())[None], IMAGE)
    with torch.inference_mode():
        prompts = segmenter.box_prompts(torch.tensor([[[80.0, 64, 176, 128]]]))
        logits, _ = segmenter.decode(segmenter.encode(pixels), prompts)
    mask = upsample(logits[0], shape, IMAGE)[0].numpy() > 0
    edge = patch // 4  # one of the 64 x 64 logits
    core, reach = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    core[rows.start + edge : rows.stop - edge, cols.start + edge : cols.stop - edge] = True
    reach[rows.start - edge : rows.stop + edge, cols.start - edge : cols.stop + edge] = True
    assert mask[core].all() and not mask[~reach].any()


def test_gradients_reach_the_image_encoder() -> None:
    segmenter = random_sam()
    logits, _ = segmenter.decode(
        segmenter.encode(torch.randn(1, 3, 256, 256)),
        segmenter.box_prompts(torch.tensor([[[30.0, 30, 90, 90]]])),
    )
    logits.square().mean().backward()
    assert segmenter.sam.image_encoder.patch_embed.proj.weight.grad.abs().max() > 0


@pytest.mark.parametrize("turned", ["by casting", "by loading"])
def test_half_precision_gives_nearly_the_same_masks(segmenter: SamSegmenter, turned: str) -> None:
    pixels = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(2))
    boxes = torch.tensor([[[20.0, 30, 200, 150]]])
    expected = decoded(segmenter, pixels, boxes)[..., :-1]
    if turned == "by casting":
        half = random_sam().to(torch.bfloat16)
    else:
        half = SamSegmenter(SMALL).eval()
        weights = {name: tensor.bfloat16() for name, tensor in segmenter.state_dict().items()}
        half.load_state_dict(weights, assign=True)
    with torch.inference_mode():
        features = half.encode(pixels)
        logits, _ = half.decode(features, half.box_prompts(boxes))
    assert features.embedding.dtype == logits.dtype == torch.bfloat16
    error = logits.float().flatten(2) - expected
    assert error.norm() / (expected - expected.mean()).norm() < 0.1


# --- files


@pytest.fixture
def tensors(segmenter: SamSegmenter) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in segmenter.sam.state_dict().items()}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_is_read_exactly(tensors: dict[str, torch.Tensor], tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"sam{suffix}"
    save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
    sizes, read = read_sam(path)
    assert sizes == SMALL
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    SamSegmenter(sizes).sam.load_state_dict(read)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"sam\.pth is not a usable SAM: there is no such file"):
        read_sam(tmp_path / "sam.pth")


Damage = Callable[[dict[str, torch.Tensor]], object]
PLACES, TABLE = "image_encoder.pos_embed", "image_encoder.blocks.{}.attn.rel_pos_h"
TOKEN = "mask_decoder.iou_token.weight"


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda t: t.clear(), f"no tensor '{PLACES}' among 0"),
        (lambda t: t.pop(PLACES), f"no tensor '{PLACES}' among 173: image_encoder"),
        (lambda t: t.pop(TABLE.format(0)), "no tensor '.*blocks.0.attn.rel_pos_h'"),
        (lambda t: (t.pop(TABLE.format(0)), t.pop(TABLE.format(1))), "no tensor '.*blocks.0.attn.rel_pos_h'"),
        (lambda t: t.pop(TOKEN), f"1 missing: {TOKEN}"),
        (lambda t: t.update(stray=torch.zeros(1)), "1 unexpected: stray"),
        (lambda t: t.update({TOKEN: torch.zeros(1, 2)}), f"1 misshapen: {TOKEN}"),
        (lambda t: t.update({TOKEN: t[TOKEN].to(torch.int8)}), f"1 not floating-point: {TOKEN}"),
        (lambda t: t.update({PLACES: torch.zeros(16, 16)}), "impossible shapes"),
        (lambda t: t.update({PLACES: torch.zeros(1, 9, 9, 32)}), r"windows of \[14, 16\] patches"),
        (lambda t: t.update({TABLE.format(0): torch.zeros(27, 0)}), "impossible shapes"),
        (lambda t: t.update({TABLE.format(0): torch.zeros(27)}), "impossible shapes"),
    ],
)
def test_tensors_of_something_else_are_named(
    tensors: dict[str, torch.Tensor], tmp_path: Path, damage: Damage, told: str
) -> None:
    damage(tensors)
    for path, save in ((tmp_path / "sam.pth", torch.save), (tmp_path / "sam.safetensors", save_file)):
        save(tensors, path)
        with pytest.raises(CheckpointError, match=f"{path.name} is not a usable SAM: .*{told}"):
            read_sam(path)


@pytest.mark.parametrize(
    "content",
    [
        [torch.zeros(1)],
        {"epoch": 3},
        {"model": {PLACES: torch.zeros(1, 16, 16, 32)}},
        torch.zeros(1),
    ],
)
def test_other_content_is_named(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "sam.pth")
    with pytest.raises(CheckpointError, match="something else than tensors by name"):
        read_sam(tmp_path / "sam.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_named(
    tensors: dict[str, torch.Tensor], tmp_path: Path, suffix: str, share: float
) -> None:
    path = tmp_path / f"sam{suffix}"
    save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError, match="damaged") as caught:
        read_sam(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"<!DOCTYPE html><html>404</html>", bytes(range(256)), b"\x80\x02}q\x00."])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_of_another_format_is_named(tmp_path: Path, suffix: str, data: bytes) -> None:
    path = tmp_path / f"sam{suffix}"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=f"{path.name} is not a usable SAM") as caught:
        read_sam(path)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_torchscript_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "sam.pth"
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), path)
    with pytest.warns(UserWarning, match="TorchScript"), pytest.raises(CheckpointError) as caught:
        read_sam(path)
    assert "of another format" in str(caught.value)
    assert "weights_only" not in str(caught.value)


class Intruder:
    """Object that creates a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.trace), "w")


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, 2))])
def test_code_in_a_file_is_not_executed(
    tensors: dict[str, torch.Tensor], tmp_path: Path, write: Callable[[object, Path], object]
) -> None:
    path, trace = tmp_path / "sam.pth", tmp_path / "trace"
    content = {**tensors, "extra": Intruder(trace)}
    torch.save(content, path)
    torch.load(path, weights_only=False)["extra"].close()
    assert trace.exists()  # it does work on those who let it
    trace.unlink()
    write(content, path)
    with pytest.raises(CheckpointError, match="Python objects, which are never loaded") as caught:
        read_sam(path)
    assert not trace.exists()
    assert "weights_only" not in str(caught.value)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, module._PACKAGE, raising=False)
    monkeypatch.setitem(sys.modules, "segment_anything", None)  # Python's own way of hiding a package
    with pytest.raises(ImportError, match="pip install segment-anything"):
        SamSegmenter(SMALL)


def test_is_tracked_as_well_in_a_letterbox(untrained: tuple[LensModel, PreTrainedTokenizerFast]) -> None:
    """A bright object moves by one patch per image, and SAM segments what is bright."""
    model, tokenizer = copy.copy(untrained[0]), untrained[1]
    model._modules = dict(model._modules, segmenter=brightness_sam())
    model.config = dataclasses.replace(model.config, image=IMAGE)
    lens = Lens(model, tokenizer)
    for mask_prompts in (False, True):
        tracker = Tracker(lens, Checks(score=0.0), mask_prompts=mask_prompts)
        for number in range(6):
            truth = np.zeros((300, 400), dtype=bool)
            truth[75:150, 50 + 25 * number : 150 + 25 * number] = True
            rgb = np.where(truth[..., None], np.uint8(255), np.uint8(40)).repeat(3, axis=2)
            if number == 0:
                thing = Instance(truth, box_of(truth), 0.9, "thing", 1.0)
                answer = Segmentation("", (thing,), truth, "", "", True, "", 0, 0, 0, 0, "")
                tracker.start("it", rgb, answer)
                continue
            carried = tracker.update(rgb)["it"]
            assert carried.tracked
            assert mask_iou(carried.segmentation.mask, truth) > 0.8
        black = np.full((300, 400, 3), 40, dtype=np.uint8)
        assert not tracker.update(black)["it"].tracked
