"""The Vision Transformer of the atlas."""

from __future__ import annotations

import torch
from recipe import activation
from torch import Tensor, nn


class Block(nn.Module):
    """Attention and an MLP, each after a LayerNorm and beside a residual path."""

    def __init__(self, case: str, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.up, self.act, self.down = (
            nn.Linear(width, 4 * width),
            activation(case),
            nn.Linear(4 * width, width),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens of the same shape (N, T, width)."""
        normalised = self.norm1(tokens)
        tokens = tokens + self.attention(normalised, normalised, normalised, need_weights=False)[0]
        return tokens + self.down(self.act(self.up(self.norm2(tokens))))


class VisionTransformer(nn.Module):
    """Three blocks on 16 tokens, one for each patch of 7 x 7 pixels; the readout takes their mean."""

    def __init__(self, case: str, width: int = 32, depth: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 7, stride=7)
        self.positions = nn.Parameter(0.02 * torch.randn(1, 16, width))
        self.blocks = nn.Sequential(*(Block(case, width) for _ in range(depth)))
        self.norm, self.readout = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N, 10) of images (N, 1, 28, 28)."""
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.positions
        return self.readout(self.norm(self.blocks(tokens)).mean(1))
