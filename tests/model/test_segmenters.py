"""The segmenter with SAM 2's own encoder, compared with transformers' Sam2Model."""

from __future__ import annotations

import torch
from transformers import Sam2Config, Sam2Model

from lens_ros.model.sam2 import Sam2Segmenter
from training.nano import build_nano

HIERA = {
    "vision_config": {
        "fpn_hidden_size": 32,
        "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        "backbone_channel_list": [64, 32, 16, 8],
        "backbone_config": {
            "model_type": "sam2_hiera_det_model",
            "image_size": [128, 128],
            "hidden_size": 8,
            "blocks_per_stage": [1, 2, 2, 1],
            "embed_dim_per_stage": [8, 16, 32, 64],
            "num_attention_heads_per_stage": [1, 1, 2, 4],
            "window_size_per_stage": [8, 4, 8, 4],
            "global_attention_blocks": [4],
        },
    },
    "prompt_encoder_config": {"hidden_size": 32, "image_size": 128, "patch_size": 16},
    "mask_decoder_config": {
        "hidden_size": 32,
        "mlp_dim": 64,
        "num_attention_heads": 4,
        "iou_head_hidden_dim": 32,
    },
}


def test_encoding_and_box_masks_equal_transformers() -> None:
    torch.manual_seed(0)
    segmenter = Sam2Segmenter(Sam2Config(**HIERA), "hiera").eval()
    reference = Sam2Model(Sam2Config(**HIERA)).eval()
    with torch.no_grad():
        for parameter in segmenter.sam.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    reference.load_state_dict(segmenter.sam.state_dict())
    pixels, boxes = torch.randn(1, 3, 128, 128), torch.tensor([[[10.0, 20, 70, 90], [40, 5, 120, 60]]])
    with torch.inference_mode():
        expected = reference(pixel_values=pixels, input_boxes=boxes, multimask_output=False)
        features = segmenter.encode(pixels)
        logits, iou = segmenter.decode(features, segmenter.box_prompts(boxes))
    torch.testing.assert_close(logits, expected.pred_masks[:, :, 0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(iou, expected.iou_scores[:, :, 0], atol=1e-5, rtol=0)


def test_a_fresh_nano_decoder_has_gradients_that_do_not_vanish() -> None:
    model, _ = build_nano(seed=0)
    features = model.segmenter.encode(torch.randn(1, 3, 256, 256))
    prompts = model.segmenter.box_prompts(torch.tensor([[[30.0, 30, 90, 90]]]))
    logits, _ = model.segmenter.decode(features, prompts)
    assert logits.shape == (1, 1, 64, 64)
    logits.abs().mean().backward()
    gradient = model.segmenter.sam.vision_encoder.stem[0].weight.grad
    assert gradient.abs().max() > 1e-5


def test_mask_prompts_equal_transformers_and_belong_to_one_object_each() -> None:
    torch.manual_seed(0)
    segmenter = Sam2Segmenter(Sam2Config(**HIERA), "hiera").eval()
    with torch.no_grad():
        for parameter in segmenter.sam.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    pixels, boxes = torch.randn(2, 3, 128, 128), 128 * torch.rand(2, 3, 4)
    previous = 5 * torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        features = segmenter.encode(pixels)
        logits, iou = segmenter.decode(features, segmenter.box_prompts(boxes), previous)
        without, _ = segmenter.decode(features, segmenter.box_prompts(boxes))
        expected = [
            [
                segmenter.sam(
                    pixel_values=pixels[image : image + 1],
                    input_boxes=boxes[image, n].view(1, 1, 4),
                    input_masks=previous[image, n].view(1, 1, 32, 32),
                    multimask_output=False,
                )
                for n in range(3)
            ]
            for image in range(2)
        ]
    for image in range(2):
        for n in range(3):
            one = expected[image][n]
            torch.testing.assert_close(logits[image, n], one.pred_masks[0, 0, 0], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(iou[image, n], one.iou_scores[0, 0, 0], atol=1e-5, rtol=0)
    assert (logits - without).abs().max() > 1e-2
