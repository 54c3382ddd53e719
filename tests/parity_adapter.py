"""Our model behind the interface of the parity checker (``tests/fixtures/parity/parity_check.py``).

``python tests/fixtures/parity/parity_check.py tests.parity_adapter:load`` compares it with golden outputs of
the paper's reference implementation.
"""

from __future__ import annotations

from pathlib import Path

import torch

from lens_ros.model.generation import generate
from lens_ros.model.images import MERGE, upsample
from lens_ros.model.kv_cache import Reading
from lens_ros.model.network import LensModel
from lens_ros.model.positions import padded_mrope_positions
from lens_ros.model.released import load_released
from lens_ros.model.sam2 import ImageFeatures
from tests.full_pass import full_pass


def load(checkpoint_dir: str) -> Adapter:
    """Load the released checkpoint in a folder: float32, on the CPU, in eval mode."""
    return Adapter(load_released(Path(checkpoint_dir)))


class Adapter:
    """Adapter of our model; arguments and results are as in the checker's docstring."""

    def __init__(self, model: LensModel) -> None:
        self.model = model

    def masks(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        pixel_values: torch.Tensor,
        image_grid_thw: torch.Tensor,
        sam_images: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        model, context = self.model, self.model.context_module()
        visual = self._see(pixel_values, image_grid_thw)
        read = full_pass(model, input_ids, attention_mask, visual, _grids(image_grid_thw))
        prompt = context(read.queries)
        features = model.segmenter.encode(sam_images)
        low_res, _ = model.decode(features, prompt)
        logps = model.reasoner.lm_head(read.hidden[:, :-1]).log_softmax(-1)
        logps = logps.gather(-1, input_ids[:, 1:, None])[..., 0]
        return {
            "prompt": prompt,
            "low_res": low_res,
            "query_hidden": read.queries,
            "connector": context.connector(read.queries),
            "position_ids": read.positions,
            "iou4": self._every_iou(features, prompt),
            "image_embed": features.embedding,
            "visual": visual,
            "logps": logps * (attention_mask[:, :-1] * attention_mask[:, 1:]),
        }

    def upsample(self, low_res: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return upsample(low_res[:, 0], size, self.model.config.image)[:, None]

    def generate(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        pixel_values: torch.Tensor,
        image_grid_thw: torch.Tensor,
        max_new_tokens: int,
        eos_token_id: int,
        pad_token_id: int,
    ) -> torch.Tensor:
        model = self.model
        embedded = model.embed(input_ids, self._see(pixel_values, image_grid_thw))
        image_token = model.reasoner.config.image_token_id
        positions = padded_mrope_positions(input_ids, attention_mask, image_token, _grids(image_grid_thw))
        reading = Reading(model.language_model, rows=len(input_ids))
        hidden = reading.read(embedded, attention_mask, positions)
        answer = generate(
            reading,
            model.reasoner.lm_head(hidden[:, -1]),
            embed=model.language_model.embed_tokens,
            head=model.reasoner.lm_head,
            end_token=eos_token_id,
            pad_token=pad_token_id,
            max_new_tokens=max_new_tokens,
        )
        return torch.cat([input_ids, answer.token_ids], dim=1)

    def _see(self, pixel_values: torch.Tensor, image_grid_thw: torch.Tensor) -> torch.Tensor:
        return self.model.reasoner.model.visual(pixel_values, grid_thw=image_grid_thw).pooler_output

    def _every_iou(self, features: ImageFeatures, prompt: torch.Tensor) -> torch.Tensor:
        """Return the predicted IoU ``(B, 4)`` of all four mask tokens; ``decode`` returns the chosen one."""
        sam = self.model.segmenter.sam
        batch = len(prompt)
        dense = sam.prompt_encoder.no_mask_embed.weight.view(1, -1, 1, 1).expand_as(features.embedding)
        place = sam.get_image_wide_positional_embeddings().expand(batch, -1, -1, -1)
        decoder = sam.mask_decoder
        dynamic, decoder.dynamic_multimask_via_stability = decoder.dynamic_multimask_via_stability, False
        several = [
            decoder(
                image_embeddings=features.embedding,
                image_positional_embeddings=place,
                sparse_prompt_embeddings=prompt[:, None],
                dense_prompt_embeddings=dense,
                multimask_output=multimask,
                high_resolution_features=list(features.high_resolution),
            )[1][:, 0]
            for multimask in (False, True)
        ]
        decoder.dynamic_multimask_via_stability = dynamic
        return torch.cat(several, dim=-1)


def _grids(image_grid_thw: torch.Tensor) -> list[tuple[int, int]]:
    return [(rows // MERGE, cols // MERGE) for _, rows, cols in image_grid_thw.tolist()]
