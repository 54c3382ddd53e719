"""Sampling of tokens, compared with the requested distribution."""

from __future__ import annotations

import torch

from lens_ros.model.generation import Sampling, _Chooser


def test_samples_follow_the_tempered_distribution() -> None:
    rows = 4000
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -4.0])
    drawn = _Chooser(Sampling(temperature=2.0, seed=1), rows, logits.device)(logits.expand(rows, -1))
    share = torch.bincount(drawn, minlength=5) / rows
    # Five standard deviations of a share of 4000 draws are 0.04 at most.
    torch.testing.assert_close(share, (logits / 2).softmax(-1), atol=0.04, rtol=0)


def test_top_k_and_top_p_keep_the_likely_ones() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(500, -1)
    nucleus = _Chooser(Sampling(temperature=1.0, top_p=0.75), 500, logits.device)(logits)
    assert set(nucleus.tolist()) == {0, 1}
    best = _Chooser(Sampling(temperature=1.0, top_k=3), 500, logits.device)(logits)
    assert set(best.tolist()) == {0, 1, 2}
