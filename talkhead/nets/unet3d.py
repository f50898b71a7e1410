"""The class-conditioned 3D U-Net of the paper (Sec. 3, Eq. 3), factorised into space and time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from talkhead.nets.attention import relative_attention
from talkhead.ops.group_norm import group_normed
from talkhead.ops.patches import check_sides, finer_in, finer_out, fold, unfold

_GROUPS = 8


class UNet3D(ModelMixin, ConfigMixin):
    r"""3D U-Net with widths 32-64-128-256, conditioned on the diffusion step and the emotion.

    Eq. 3: :math:`t_{emb} = \mathrm{concat}(\mathrm{Embedding}(s), \mathrm{Embedding}(w))`. The step :math:`s` is
    embedded by sinusoids and a small perceptron; the emotion by the mean of the 8 class embeddings under its
    probabilities, so that a label and a probability vector are one thing. Each residual block reads :math:`t_{emb}` as
    scale and shift.

    A 3 x 3 x 3 convolution is factorised into 1 x 3 x 3 (a 2D convolution over B T pictures, channels last: ten times
    faster than conv3d on CPUs) and a per-channel 3 x 1 x 1 over time. The two lowest resolutions also attend over time
    with relative positions, so any number of frames can be given at inference.

    Args:
        in_channels: channels of the input picture.
        out_channels: channels of the output picture.
        widths: feature widths from the highest resolution to the lowest.
        blocks: residual blocks per resolution, on either side.
        patch: side of the pixel blocks folded into channels before the first and after the last convolution.
        num_classes: number of class embeddings (the paper: 8).
        embedding: width of each half of t_emb.
        attention_levels: at how many of the lowest resolutions to attend over time.
        coarse_channels: channels of smooth conditions at half the resolution, see ``forward``.
        still_channels: channels of a condition that is the same for all frames.
        gradient_checkpointing: recompute block activations in the backward pass: less memory, more time.

    Example:
        >>> net = UNet3D(3, 3, widths=(8, 16), patch=1)
        >>> net(torch.rand(1, 3, 4, 8, 8), torch.tensor([500]), torch.full((1, 8), 1 / 8)).shape
        torch.Size([1, 3, 4, 8, 8])
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        widths: Sequence[int] = (32, 64, 128, 256),
        blocks: int = 1,
        patch: int = 2,
        num_classes: int = 8,
        embedding: int = 128,
        attention_levels: int = 2,
        gradient_checkpointing: bool = False,
        coarse_channels: int = 0,
        still_channels: int = 0,
    ) -> None:
        super().__init__()
        self.embed = StepClassEmbedding(num_classes, embedding)
        self.stem = nn.Conv2d(in_channels * patch**2, widths[0], 3, padding=1)
        if coarse_channels:
            self.coarse_stem = nn.Conv2d(coarse_channels * (patch // 2) ** 2, widths[0], 3, padding=1, bias=False)
        if still_channels:
            self.still_stem = nn.Conv2d(still_channels * patch**2, widths[0], 3, padding=1, bias=False)
        self.down = nn.ModuleList()
        self.shrink = nn.ModuleList()
        self.up = nn.ModuleList()
        self.grow = nn.ModuleList()
        attend = [level >= len(widths) - attention_levels for level in range(len(widths))]
        for level, width in enumerate(widths):
            self.down.append(nn.ModuleList(Block(width, width, 2 * embedding, attend[level]) for _ in range(blocks)))
        for narrow, wide in pairwise(widths):
            self.shrink.append(nn.Conv2d(narrow, wide, 3, stride=2, padding=1))
            self.grow.append(nn.Conv2d(wide, narrow, 1))
        for level, width in enumerate(widths):
            inputs = [2 * width] + [width] * (blocks - 1)
            if level == len(widths) - 1:
                inputs[0] = width
            self.up.append(nn.ModuleList(Block(i, width, 2 * embedding, attend[level]) for i in inputs))
        self.norm = nn.GroupNorm(_GROUPS, widths[0])
        self.head = nn.Conv2d(widths[0], out_channels * patch**2, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    @property
    def multiple(self) -> int:
        """px, of which the sides of pictures must be multiples: a patch's, doubled at each step down."""
        return self.config.patch * 2 ** (len(self.config.widths) - 1)

    def forward(
        self,
        sample: Tensor | Sequence[Tensor],
        timestep: Tensor,
        emotion: Tensor,
        coarse: Tensor | None = None,
        still: Tensor | None = None,
        absent: int = 0,
        unasked: int = 0,
    ) -> Tensor:
        """Predict.

        Args:
            sample: (B, C, T, H, W) input, or several whose channels add up to C less ``absent``; H and W divisible by
                ``multiple``, any T.
            timestep: (B,) diffusion step, 0 to 1000.
            emotion: (B, 8) class probabilities; zeros where no class is given.
            coarse: (B, coarse_channels, T, H / 2, W / 2) smooth conditions.
            still: (B, still_channels, H, W) what is the same for all frames: its part of the first convolution is
                computed once.
            absent: how many of the last input channels are left out, being 0.
            unasked: how many of the last output channels nobody wants.

        Returns:
            (B, out_channels - unasked, T, H, W).

        Raises:
            ValueError: if H or W does not divide.
        """
        parts = [sample] if isinstance(sample, Tensor) else list(sample)
        self._check(parts, absent)
        frames, patch = parts[0].shape[2], self.config.patch
        condition = self.embed(timestep, emotion).repeat_interleave(frames, 0)
        seen = fold([part for part in parts if part.shape[1]], patch)
        x = F.conv2d(seen, self.stem.weight[:, : seen.shape[1]], self.stem.bias, padding=1)
        if coarse is not None:
            x = x + self.coarse_stem(fold([coarse], patch // 2))
        if still is not None:
            x = x + self.still_stem(fold([still[:, :, None]], patch)).repeat_interleave(frames, 0)
        skips = []
        for level, blocks in enumerate(self.down):
            x = self._run(blocks, x, condition, frames)
            if level < len(self.shrink):
                skips.append(x)
                x = self.shrink[level](x)
        x = self._run(self.up[-1], x, condition, frames)
        for level in reversed(range(len(self.grow))):
            x = F.interpolate(self.grow[level](x), scale_factor=2.0, mode="nearest")
            x = self._run(self.up[level], torch.cat([x, skips.pop()], 1), condition, frames)
        asked = (self.config.out_channels - unasked) * patch**2
        assert self.head.bias is not None
        x = F.conv2d(F.silu(self.norm(x)), self.head.weight[:asked], self.head.bias[:asked], padding=1)
        return unfold(x, patch, frames)

    def finer_weights(self, factor: int) -> dict[str, Tensor]:
        """Return weights that do the same with ``factor`` times as fine pixels in as much larger patches."""
        weights, patch = self.state_dict(), self.config.patch
        for name, side in {"stem": patch, "still_stem": patch, "coarse_stem": patch // 2}.items():
            if hasattr(self, name):
                weights[f"{name}.weight"] = finer_in(weights[f"{name}.weight"], side, factor)
        head = {name: finer_out(weights[name], patch, factor) for name in ("head.weight", "head.bias")}
        return weights | head

    def _run(self, blocks: nn.Module, x: Tensor, condition: Tensor, frames: int) -> Tensor:
        for block in blocks.children():
            if self.config.gradient_checkpointing and self.training:
                x = checkpoint(block, x, condition, frames, use_reentrant=False)
            else:
                x = block(x, condition, frames)
        return x

    def _check(self, parts: Sequence[Tensor], absent: int) -> None:
        channels = self.config.in_channels - absent
        if any(part.ndim != 5 for part in parts) or sum(part.shape[1] for part in parts) != channels:
            raise ValueError(
                f"sample must be (B, {channels}, T, H, W); got {' and '.join(str(tuple(part.shape)) for part in parts)}"
            )
        check_sides("each side of sample", parts[0].shape[-2:], self.multiple)


class StepClassEmbedding(nn.Module):
    """Eq. 3: concat(Embedding(s), Embedding(w)), (B,) and (B, num_classes) -> (B, 2 * width)."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.step = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.classes = nn.Linear(num_classes, width, bias=False)  # columns are the class embeddings
        self.null = nn.Parameter(torch.zeros(width))  # "no class given": a vector that sums to 0 selects it
        nn.init.normal_(self.classes.weight)

    def forward(self, timestep: Tensor, emotion: Tensor) -> Tensor:
        """Return t_emb of (B,) steps and (B, num_classes) probabilities."""
        half = self.width // 2
        rates = torch.exp(-math.log(10_000) / half * torch.arange(half, device=timestep.device))
        angles = timestep.float()[:, None] * rates
        step = self.step(torch.cat([angles.sin(), angles.cos()], -1))
        given = emotion.sum(-1, keepdim=True)
        classes = self.classes(emotion) + (1 - given) * self.null
        return torch.cat([step, classes], -1)


class Block(nn.Module):
    """Residual block: norm, 1x3x3, 3x1x1, norm with scale and shift from t_emb, 1x3x3; then attention over time."""

    def __init__(self, inputs: int, width: int, condition: int, attend: bool) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(_GROUPS, inputs)
        self.conv1 = nn.Conv2d(inputs, width, 3, padding=1)
        self.time = TemporalConv(width)
        self.modulate = nn.Linear(condition, 2 * width)
        self.norm2 = nn.GroupNorm(_GROUPS, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.skip = nn.Conv2d(inputs, width, 1) if inputs != width else nn.Identity()
        self.attend = TemporalAttention(width) if attend else None
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, condition: Tensor, frames: int) -> Tensor:
        """Map (B T, C, H, W) features under (B T, D) conditions."""
        scale, shift = self.modulate(F.silu(condition))[..., None, None].chunk(2, 1)
        h = self.time(self.conv1(F.silu(group_normed(self.norm1, x))), frames)
        h = self.conv2(F.silu(torch.addcmul(shift, group_normed(self.norm2, h), 1 + scale)))
        x = self.skip(x) + h
        return x if self.attend is None else self.attend(x, frames)


class TemporalConv(nn.Module):
    """3 x 1 x 1 convolution, one filter per channel, starting as the identity; edge frames are repeated."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.taps = nn.Parameter(torch.tensor([0.0, 1.0, 0.0])[:, None].repeat(1, width))

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """Filter (B T, C, H, W) features along T."""
        if frames == 1:
            return x * self.taps.sum(0)[:, None, None].to(x.dtype)
        taps = self.taps.to(x.dtype)
        if x.is_cuda:
            video = x.unflatten(0, (-1, frames))
            padded = torch.cat([video[:, :1], video, video[:, -1:]], 1)
            mixed = torch.addcmul(video * taps[1, :, None, None], padded[:, :-2], taps[0, :, None, None])
            return torch.addcmul(mixed, padded[:, 2:], taps[2, :, None, None]).flatten(0, 1)
        # A column of pixels per frame, channels last: a CPU's own kernel takes a tenth of the time of the sums above.
        video = rearrange(x, "(b t) c h w -> b t (h w) c", t=frames)
        padded = rearrange(torch.cat([video[:, :1], video, video[:, -1:]], 1), "b t p c -> b c t p")
        mixed = F.conv2d(padded, taps.T[:, None, :, None], groups=x.shape[1])
        return rearrange(mixed, "b c t (h w) -> (b t) c h w", h=x.shape[2])


class TemporalAttention(nn.Module):
    """Self-attention over a pixel's T frames with a learned bias per relative offset (clipped at ``reach`` frames)."""

    def __init__(self, width: int, heads: int = 4, reach: int = 32) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(_GROUPS, width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.bias = nn.Parameter(torch.zeros(heads, 2 * reach + 1))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """Attend along T of (B T, C, H, W) features and add the result."""
        height, width = x.shape[-2:]
        # In one piece: of a view torch's linear makes a product per pixel, and copies the weights for each of them.
        tokens = rearrange(group_normed(self.norm, x), "(b t) c h w -> (b h w) t c", t=frames).contiguous()
        mixed = self.out(relative_attention(self.qkv(tokens), self.bias.flip(1)))  # kept from after to before
        mixed = rearrange(mixed, "(b h w) t c -> (b t) c h w", h=height, w=width)
        return x + mixed.contiguous(memory_format=torch.channels_last)
