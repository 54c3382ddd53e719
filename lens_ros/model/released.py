"""Load checkpoints of the authors of LENS as a :class:`~lens_ros.model.network.LensModel`.

Such a folder is what the reference implementation (hustvl/LENS, on transformers 4.51) saves: a flat
``config.json`` and safetensors in one file or several. Its weights expect sequential query positions and
SAM 2.0 hiera-L. Only safetensors are opened there, and SAM 2's own file only as plain tensors: nothing that
is loaded can execute code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import Qwen2_5_VLConfig, Sam2Config
from transformers.initialization import no_init_weights

from lens_ros.model.config import ContextConfig, ImageConfig, LensConfig
from lens_ros.model.errors import CheckpointError, first_few
from lens_ros.model.images import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD
from lens_ros.model.network import LensModel
from lens_ros.model.released_names import (
    EMBEDDING,
    HEAD,
    OUR_EMBEDDING,
    OUR_HEAD,
    UNUSED,
    file_shapes,
    map_released,
)
from lens_ros.model.tensor_check import check_tensors

_INDEX = "model.safetensors.index.json"
_NUM_QUERIES = 64  # of the reference's Qwen2.5-VL class where config.json holds null

# SAM 2.0 hiera-L: sam2_hiera_l.yaml of segment-anything-2.
_HIERA_L = {
    "hidden_size": 144,
    "num_attention_heads_per_stage": [2, 4, 8, 16],
    "blocks_per_stage": [2, 6, 36, 4],
    "embed_dim_per_stage": [144, 288, 576, 1152],
    "global_attention_blocks": [23, 33, 43],
    "window_size_per_stage": [8, 4, 16, 8],
    "window_positional_embedding_background_size": [7, 7],
    "backbone_channel_list": [1152, 576, 288, 144],
    "image_size": 1024,
}

# Fields that change numbers or shapes, and must be there; and fields whose defaults in transformers are those
# of Qwen2.5-VL. The others (embed_dim, mlp_ratio, in_chans and the like) are leftovers of Qwen2-VL, as whose
# configuration the reference saves its own, and mean nothing.
_TEXT_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "rms_norm_eps",
)
_TEXT_DEFAULTS = (
    "hidden_act",
    "max_position_embeddings",
    "bos_token_id",
    "eos_token_id",
    "use_sliding_window",
    "sliding_window",
    "max_window_layers",
)
_VISION_FIELDS = (
    "depth",
    "hidden_size",
    "intermediate_size",
    "num_heads",
    "window_size",
    "out_hidden_size",
    "fullatt_block_indexes",
)
_VISION_DEFAULTS = (
    "hidden_act",
    "in_channels",
    "patch_size",
    "spatial_merge_size",
    "temporal_patch_size",
    "tokens_per_second",
)
_TOKEN_FIELDS = ("image_token_id",)
_TOKEN_DEFAULTS = ("video_token_id", "vision_start_token_id", "vision_end_token_id")


def released_config(folder: Path) -> LensConfig:
    """Return the configuration of a released checkpoint, from its ``config.json``.

    SAM 2 is hiera-L, unless a ``sam2_config.json`` lies next to it (never in a released folder; small tests
    use it).

    Raises:
        CheckpointError: a file is missing, is not JSON, lacks a field or holds impossible values, or it
            belongs to another network than LENS on Qwen2.5-VL with a connector.
    """
    path = folder / "config.json"
    given = _read_json(path)
    architecture = " ".join(map(str, _field(path, given, "architectures", list)))
    if "qwen2p5" not in architecture:
        raise CheckpointError(
            f"{path} is of another network ({architecture}): expected SAMR1ForConditionalGeneration_qwen2p5, "
            "LENS on Qwen2.5-VL. The 2B variant on Qwen2-VL is not supported; use a 3B checkpoint."
        )
    num_queries, connector = given.get("num_of_query"), given.get("if_use_qwen_connector")
    if connector not in (None, True):
        raise CheckpointError(
            f"{path} asks for a network without connector (if_use_qwen_connector: {json.dumps(connector)}), "
            "which is not supported; every released 3B checkpoint has one."
        )
    if num_queries is None:
        num_queries = _NUM_QUERIES
    if type(num_queries) is not int or num_queries < 1:
        raise CheckpointError(f"{path}: num_of_query is {json.dumps(num_queries)}, expected a count.")
    reasoner = _reasoner(path, given)
    segmenter = _segmenter(folder / "sam2_config.json")
    try:
        Qwen2_5_VLConfig(**reasoner)
        Sam2Config(**segmenter)
    except Exception as error:  # transformers checks the types of all fields and raises many kinds
        raise CheckpointError(
            f"{folder} is configured with an impossible value. {error}\n"
            "Restore config.json from where the weights came."
        ) from error
    return LensConfig(
        reasoner=reasoner,
        segmenter=segmenter,
        image_encoder="hiera",
        image=ImageConfig(
            protocol="refcoco",
            reasoner_mean=CLIP_MEAN,
            reasoner_std=CLIP_STD,
            segmenter_size=segmenter["prompt_encoder_config"]["image_size"],
            segmenter_mean=IMAGENET_MEAN,
            segmenter_std=IMAGENET_STD,
        ),
        context=ContextConfig(num_queries=num_queries),
        query_positions="sequential",
        wording="paper",
        coordinates="absolute",
        think=False,
        name=folder.resolve().name,
    )


def load_released(folder: Path, *, sam2: Path | None = None, dtype: torch.dtype = torch.float32) -> LensModel:
    """Load a released checkpoint, on the CPU, in eval mode, every tensor as ``dtype``.

    Tensors that are stored as ``dtype`` are not copied: they stay mapped to the file, which must not be
    overwritten in place while the model lives.

    Args:
        folder: as the reference's ``save_pretrained`` leaves it.
        sam2: a file with SAM 2.0's own weights, ``sam2_hiera_large.pt`` or safetensors with the same names,
            which replace the folder's. Checkpoints of stage 1 need it: their ``sam.*`` are random.
        dtype: of all tensors.

    Raises:
        CheckpointError: a file is missing or damaged, the tensors are not exactly the ones that the
            configuration requires, or SAM 2 was never trained. Nothing is ever left at its initial value.
    """
    config = released_config(folder)
    tensors, source = _read_folder(folder), str(folder)
    if sam2 is not None:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("sam.")}
        tensors |= {f"sam.{name}": tensor for name, tensor in _read_sam2(sam2).items()}
        source = f"{folder} with {sam2}"
    elif not _has_trained_sam(tensors):
        raise CheckpointError(
            f"{folder} is a checkpoint of stage 1, which holds no trained SAM 2: its sam.* are random or "
            "absent. Give SAM 2's own weights with sam2=, the path of sam2_hiera_large.pt, or use a "
            "checkpoint of stage 2."
        )
    try:
        # All weights are replaced. Not on the meta device: buffers that no file holds must have their values.
        with no_init_weights():
            model = LensModel(config)
    except Exception as error:  # torch and transformers raise many kinds
        raise CheckpointError(
            f"{folder / 'config.json'} describes no network that can be built ({error}). Restore it from "
            "where the weights came."
        ) from error
    tied = _read_json(folder / "config.json").get("tie_word_embeddings") is True
    wanted = file_shapes(model)
    if not tied or HEAD in tensors:
        wanted[HEAD] = wanted[EMBEDDING]
    used = {name: tensor for name, tensor in tensors.items() if not UNUSED.fullmatch(name)}
    # The network has one table for both, whatever config.json says of a head that the file brings.
    check_tensors(used, wanted, source, dtype=dtype, equal=(HEAD, EMBEDDING))
    tensors.pop(HEAD, None)
    mapped = {name: tensor.to(dtype) for name, tensor in map_released(tensors).items()}
    mapped[OUR_HEAD] = mapped[OUR_EMBEDDING]
    model.load_state_dict(mapped, assign=True)  # assigning holds no second copy in memory
    model.reasoner.tie_weights()
    return model.eval()


def _has_trained_sam(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Return whether there is a SAM 2 whose image encoder differs from its initialization.

    Initially, norm layers are ones and zeros, as torch makes them, or linear layers have biases of zero, as
    transformers fills in what a file lacked. Training moves all of these.
    """
    if not any(name.startswith("sam.") for name in tensors):
        return False
    norms, biases = [], []  # still at birth?
    for name, tensor in tensors.items():
        if re.fullmatch(r"sam\.image_encoder\.trunk\.blocks\.\d+\.norm[12]\.(weight|bias)", name):
            norms.append(bool((tensor.float() == float(name.endswith("weight"))).all()))
        elif re.fullmatch(r"sam\.image_encoder\.trunk\.blocks\.\d+\.(attn|mlp)\..*bias", name):
            biases.append(not tensor.float().any())
    # Where there are none, a part of the file is lost: not this function's matter.
    return not (norms and all(norms)) and not (biases and all(biases))


def _reasoner(path: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return keywords of ``Qwen2_5_VLConfig``, whose field names are the same; only the layout differs."""
    vision = _field(path, given, "vision_config", dict)
    rope = _field(path, given, "rope_scaling", dict)
    section = _field(path, rope, "mrope_section", list)
    kind = rope.get("rope_type", rope.get("type"))
    if kind not in ("default", "mrope"):
        raise CheckpointError(f"{path}: rope_scaling is of type {kind!r}, expected 'default' or 'mrope'.")
    heads, width = (_field(path, given, name, int) for name in ("num_attention_heads", "hidden_size"))
    if not all(type(n) is int for n in section) or heads * 2 * sum(section) != width:
        raise CheckpointError(
            f"{path}: num_attention_heads {heads}, mrope_section {section} and hidden_size {width} "
            "contradict each other: expected heads * 2 * sum(mrope_section) = hidden_size. Restore it from "
            "where the weights came."
        )
    _field(path, given, "tie_word_embeddings", bool)
    return {
        # Whatever config.json says: a head of its own is refused when the weights are loaded.
        "tie_word_embeddings": True,
        **_fields(path, given, _TOKEN_FIELDS, _TOKEN_DEFAULTS),
        "text_config": {
            **_fields(path, given, _TEXT_FIELDS, _TEXT_DEFAULTS),
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": _field(path, given, "rope_theta", (int, float)),
                "mrope_section": section,
            },
        },
        "vision_config": _fields(path, vision, _VISION_FIELDS, _VISION_DEFAULTS),
    }


def _segmenter(path: Path) -> dict[str, Any]:
    """Return keywords of ``Sam2Config`` for the sizes in the file, or hiera-L's without a file."""
    given = _read_json(path) if path.exists() else _HIERA_L
    size = _field(path, given, "image_size", int)
    sizes = _fields(path, given, tuple(_HIERA_L), ())
    return {
        "vision_config": {
            "backbone_channel_list": sizes.pop("backbone_channel_list"),
            "backbone_feature_sizes": [[size // stride] * 2 for stride in (4, 8, 16)],
            "backbone_config": {**sizes, "model_type": "sam2_hiera_det_model", "image_size": [size, size]},
        },
        "prompt_encoder_config": {"image_size": size, "patch_size": 16},
        # As the reference builds it: dynamic_multimask_via_stability, which is also transformers' default.
        "mask_decoder_config": {"dynamic_multimask_via_stability": True},
    }


def _fields(
    path: Path, given: Mapping[str, Any], needed: tuple[str, ...], defaulted: tuple[str, ...]
) -> dict[str, Any]:
    values = {name: _field(path, given, name) for name in needed}
    return values | {name: given[name] for name in defaulted if name in given}


def _field(path: Path, given: Mapping[str, Any], name: str, kind: type | tuple[type, ...] = object) -> Any:
    if name not in given:
        raise CheckpointError(
            f"{path} has no field '{name}': expected the files of a checkpoint that the authors of LENS "
            "released. Restore them from where the weights came."
        )
    if not isinstance(given[name], kind):
        raise CheckpointError(f"{path}: {name} is {json.dumps(given[name])}, which is of the wrong type.")
    return given[name]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} is missing: expected a folder with config.json and safetensors, as the authors of LENS "
            "released them."
        ) from error
    except (ValueError, OSError) as error:
        raise CheckpointError(
            f"{path} is not readable as JSON ({error}). Restore it from where the weights came."
        ) from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds no JSON object. Restore it from where the weights came.")
    return values


def _read_folder(folder: Path) -> dict[str, torch.Tensor]:
    """Return all tensors of a folder's safetensors, memory-mapped."""
    tensors: dict[str, torch.Tensor] = {}
    for path in _weight_files(folder):
        for name, tensor in _read_safetensors(path).items():
            if name in tensors:
                raise CheckpointError(
                    f"{folder}: {path.name} and another file both hold {name}. Keep the files of one "
                    f"checkpoint only, or add its {_INDEX}."
                )
            tensors[name] = tensor
    return tensors


def _weight_files(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.glob("model*.safetensors") if path.is_file())
    index = folder / _INDEX
    if index.exists():
        listed = _field(index, _read_json(index), "weight_map", dict).values()
        names = sorted({str(name) for name in listed})
        missing = [name for name in names if folder / name not in found]
        if missing or not names:
            raise CheckpointError(
                f"{index} names files that the folder does not hold: {first_few(missing) or 'none at all'}. "
                "Download them, all from the same place."
            )
        if len(found) != len(names):
            stray = [path.name for path in found if path.name not in names]
            raise CheckpointError(
                f"{folder} holds weights that its {_INDEX} does not name: {first_few(stray)}. Remove these, "
                "or the index if they are the checkpoint."
            )
    elif not found:
        pickled = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth"))
        if pickled:
            raise CheckpointError(
                f"{folder} holds weights only as pickles ({first_few(pickled)}), which are never opened: a "
                "pickle can execute code. Get the safetensors of this checkpoint, or save it again as "
                "safetensors on a machine where that does no harm."
            )
        raise CheckpointError(
            f"{folder} holds no weights: expected model.safetensors, or model-*.safetensors and {_INDEX}."
        )
    return found


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} ({path.stat().st_size} bytes) is damaged or not a safetensors file: {error}. "
            "Download it again."
        ) from error


def _read_sam2(path: Path) -> dict[str, torch.Tensor]:
    """Return SAM 2's own tensors, under their own names."""
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: expected SAM 2's own weights, sam2_hiera_large.pt.")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:  # its text recommends weights_only=False, which would execute the file
        raise CheckpointError(
            f"{path} is damaged, or holds Python objects besides tensors, which are never loaded. Download "
            "sam2_hiera_large.pt again."
        ) from error
    except Exception as error:  # torch raises many kinds
        reason = f"{type(error).__name__}: " + str(error).partition("\n")[0]
        raise CheckpointError(
            f"{path} ({path.stat().st_size} bytes) is damaged or of another format ({reason}). Download "
            "sam2_hiera_large.pt again."
        ) from error
    tensors = stored.get("model") if isinstance(stored, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(t, torch.Tensor) for t in tensors.values()):
        raise CheckpointError(
            f"{path} is not SAM 2's own file: expected tensors by name under the key 'model', as in "
            "sam2_hiera_large.pt."
        )
    return tensors
