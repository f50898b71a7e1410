"""Two small layers of the landmark net: attention over time with relative positions, and a running standardisation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Standardize(nn.Module):
    """Subtract the running mean and divide by the running deviation of what was seen in training; clamp to +-4.

    Args:
        features: number of features.
        momentum: share of the newest batch.
    """

    def __init__(self, features: int, momentum: float = 0.05) -> None:
        super().__init__()
        self.momentum = momentum
        self.mean: Tensor
        self.square: Tensor
        self.weight: Tensor
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("square", torch.zeros(features))
        self.register_buffer("weight", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, F) to (B, F)."""
        if self.training:
            with torch.no_grad():
                # Kept as a weighted sum and its weight, so that the first batches count in full.
                self.weight.lerp_(torch.ones_like(self.weight), self.momentum)
                self.mean.lerp_(x.mean(0), self.momentum)
                self.square.lerp_(x.square().mean(0), self.momentum)
        weight = self.weight.clamp_min(1e-6)
        mean = self.mean / weight
        deviation = (self.square / weight - mean.square()).clamp_min(1e-8).sqrt()
        return ((x - mean) / deviation).clamp(-4, 4)


class RelativeAttention(nn.Module):
    """Self-attention over time with a learnt bias for each distance between frames, then a feed-forward layer.

    Args:
        width: channels.
        heads: attention heads.
        dropout: of both residual branches.
        reach: distances beyond this many frames share one bias.
    """

    def __init__(self, width: int, heads: int, dropout: float, reach: int = 32) -> None:
        super().__init__()
        self.heads, self.reach = heads, reach
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.bias = nn.Parameter(torch.zeros(heads, 2 * reach + 1))
        self.feed = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(2 * width, width),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, C) to (B, T, C), any T."""
        batch, length, width = x.shape
        time = torch.arange(length, device=x.device)
        bias = self.bias[:, (time - time[:, None]).clamp(-self.reach, self.reach) + self.reach]
        q, k, v = self.qkv(self.norm(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        heard = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q).unsqueeze(0))
        x = x + self.dropout(self.out(heard.transpose(1, 2).reshape(batch, length, width)))
        return x + self.dropout(self.feed(x))
