"""Attention over time with relative positions: what every net here that looks along the frames does."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

_MOST = 2**15
"""Sequences attended to in one call: PyTorch's kernels for CUDA fail from 65536 on (its issue 142228)."""


def relative_attention(projected: Tensor, bias: Tensor) -> Tensor:
    """Attend over time with a learnt bias for each distance, any length (Shaw et al., 2018, with biases for vectors).

    Args:
        projected: (B, T, 3 C) queries, keys and values side by side.
        bias: (H, 2 R + 1), for each of the H heads what is added to the score of a key R frames before the query, ...,
            R frames after it; keys further away share the outermost.

    Returns:
        (B, T, C).
    """
    heads, reach = len(bias), bias.shape[1] // 2
    time = torch.arange(projected.shape[1], device=projected.device)
    scores = bias[:, (time - time[:, None]).clamp(-reach, reach) + reach].to(projected.dtype)
    parts = rearrange(projected, "b t (three h d) -> three b h t d", three=3, h=heads).split(_MOST, 1)
    mixed = [F.scaled_dot_product_attention(q, k, v, attn_mask=scores[None]) for q, k, v in parts]
    joined = mixed[0] if len(mixed) == 1 else torch.cat(mixed)
    if torch.compiler.is_exporting():  # ONNX's attention, put in the fused one's place, has another memory layout
        joined = joined.contiguous()
    return rearrange(joined, "b h t d -> b t (h d)")


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
        x = x + self.dropout(self.out(relative_attention(self.qkv(self.norm(x)), self.bias)))
        return x + self.dropout(self.feed(x))
