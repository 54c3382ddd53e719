"""Carry the meaning of the reasoning to the segmenter by context queries (LENS, section 3.2).

Layout and tensor names follow the paper's released checkpoints, so that they load without renaming.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from lens_ros.model.config import ContextConfig


class _Attention(nn.Module):
    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.num_heads, width // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).reshape(batch, length, width))


class _FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.fc1(x)
        return self.fc2(x * torch.sigmoid(1.702 * x))


class _Block(nn.Module):
    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = _Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = _FeedForward(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class _Connector(nn.Module):
    def __init__(self, width: int, config: ContextConfig) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, config.num_queries, width))
        self.blocks = nn.ModuleList(_Block(width, config.num_heads) for _ in range(config.depth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return x


class ContextModule(nn.Module):
    """Learned queries, and the connector that turns their hidden states into one prompt vector."""

    def __init__(self, width: int, prompt_width: int, config: ContextConfig) -> None:
        """Create the connector.

        ``width``: size of the reasoner's hidden states; ``prompt_width``: size of the segmenter's prompts.
        """
        super().__init__()
        self.learnable_query = nn.Parameter(torch.empty(1, config.num_queries, width))
        nn.init.normal_(self.learnable_query, std=0.02)
        self.connector = _Connector(width, config)
        self.conv_1d = nn.Conv1d(width, width, kernel_size=config.num_queries)
        nn.init.normal_(self.conv_1d.weight, std=0.02)
        nn.init.zeros_(self.conv_1d.bias)
        self.proj_to_sam = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, prompt_width))

    @property
    def num_queries(self) -> int:
        return self.learnable_query.shape[1]

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Fold the queries' final hidden states ``(B, Q, H)`` into prompts ``(B, 1, prompt_width)``."""
        mixed = self.connector(hidden)
        folded = self.conv_1d(mixed.transpose(1, 2)).transpose(1, 2)
        return self.proj_to_sam(folded)
