"""Combine any Qwen2.5-VL, which writes a box, with SAM, which turns it into a mask.

There is no LENS head and no joint training.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.initialization import no_init_weights
from transformers.utils import logging

from lens_ros.model.config import ImageConfig, LensConfig
from lens_ros.model.errors import CheckpointError, first_few
from lens_ros.model.images import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD
from lens_ros.model.network import LensModel
from lens_ros.model.sam import read_sam


def combine(reasoner: Path, sam: Path, *, dtype: torch.dtype = torch.float32) -> LensModel:
    """Build a model of a published Qwen2.5-VL and a SAM.

    Args:
        reasoner: folder of the Qwen2.5-VL (``config.json``, safetensors).
        sam: file of the SAM (:func:`~lens_ros.model.sam.read_sam`).

    Returns:
        the model in eval mode, on the CPU.

    Raises:
        CheckpointError: one of them is absent, damaged or something else.
        ImportError: ``segment-anything`` is not installed.
    """
    sizes, tensors = read_sam(sam)  # first: it takes seconds, the reasoner minutes
    qwen = _read_reasoner(reasoner, dtype)
    config = LensConfig(
        reasoner=_reasoner_settings(qwen),
        segmenter=dataclasses.asdict(sizes),
        image_encoder="vit",
        image=ImageConfig(
            protocol="refcoco",
            reasoner_mean=CLIP_MEAN,
            reasoner_std=CLIP_STD,
            segmenter_size=sizes.image_size,
            segmenter_fit="letterbox",
            segmenter_mean=IMAGENET_MEAN,
            segmenter_std=IMAGENET_STD,
        ),
        context=None,
        wording="paper",
        think=False,
        name=f"{reasoner.name}-{sam.stem}",
    )
    with no_init_weights():  # every one of them is replaced
        model = LensModel(config)
    for part in (qwen.config, qwen.config.text_config):
        part.tie_word_embeddings = config.reasoner["tie_word_embeddings"]
    model.reasoner = qwen
    model.segmenter.sam.load_state_dict({n: t.to(dtype) for n, t in tensors.items()}, assign=True)
    return model.eval()


def _reasoner_settings(qwen: Qwen2_5_VLForConditionalGeneration) -> dict[str, Any]:
    """Return the configuration of a Qwen2.5-VL; whether its head is tied is what its file says.

    A file may bring a head that differs from the embedding although its ``config.json`` ties them. Such a
    head was trained, or it would be equal. transformers keeps both, and so does the model that is written.
    """
    tied = qwen.lm_head.weight.data_ptr() == qwen.get_input_embeddings().weight.data_ptr()
    settings: dict[str, Any] = qwen.config.to_diff_dict()
    # transformers ties where either says so.
    settings["tie_word_embeddings"] = tied
    settings["text_config"] = {**settings.get("text_config", {}), "tie_word_embeddings": tied}
    return settings


def _read_reasoner(folder: Path, dtype: torch.dtype) -> Qwen2_5_VLForConditionalGeneration:
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} is not the folder of a Qwen2.5-VL: it holds no config.json")
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what it would warn of is refused below
    try:
        config = Qwen2_5_VLConfig.get_config_dict(folder)[0]
        if config.get("model_type") != "qwen2_5_vl":
            raise CheckpointError(
                f"{folder} holds a model of type {config.get('model_type')!r}; expected 'qwen2_5_vl'. "
                "A checkpoint of the LENS authors is read by `lens convert-released`."
            )
        model, report = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            folder, dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except CheckpointError:
        raise
    except Exception as error:  # transformers raises many kinds, up to bare Exception from its Rust core
        raise CheckpointError(
            f"{folder} cannot be read as a Qwen2.5-VL ({type(error).__name__}: {error}). Expected "
            "config.json and intact safetensors, as its authors published them."
        ) from error
    finally:
        logging.set_verbosity(verbosity)
    faults = {
        kind: sorted(map(str, report[kind]))
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if report[kind]
    }
    if faults:
        told = "; ".join(f"{len(v)} {kind}: {first_few(v)}" for kind, v in faults.items())
        raise CheckpointError(f"{folder} does not hold the tensors that its config.json asks for ({told})")
    return model
