"""A judge that is trained beside the renderer to tell painted patches from true ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from talkhead.face.points import MOUTH

_QUIET = 0.01
"""Of the judge's own loss in the sum. Adam does not feel it; the clipping of the sum's gradient would otherwise."""


class PatchDiscriminator(nn.Module):
    """Says of each patch of a picture how true it looks beside the warped portrait that it was painted from.

    Strided convolutions under spectral normalisation (Miyato et al. 2018), each patch judged by itself as in PatchGAN
    (Isola et al. 2017).

    Args:
        widths: channels after each halving.

    Example:
        >>> PatchDiscriminator((8, 16))(torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(self, widths: Sequence[int] = (32, 64, 128)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip([6, *widths], widths, strict=False):
            layers += [spectral_norm(nn.Conv2d(before, after, 4, stride=2, padding=1)), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, spectral_norm(nn.Conv2d(widths[-1], 1, 3, padding=1)))

    def forward(self, pictures: Tensor, carrier: Tensor) -> Tensor:
        """Return (N, 1, h, w), positive where ``pictures`` (N, 3, H, W) look true; ``carrier`` is like them."""
        return self.layers(torch.cat([pictures, carrier], 1))


class Critics(nn.Module):
    """One judge for the mouth and one for the whole picture, with the hinge loss (Lim and Ye 2017).

    Args:
        mouth_size: px, to which the mouth's square is brought.

    Example:
        >>> critics = Critics(mouth_size=16)
        >>> video, points = torch.rand(1, 3, 2, 32, 32), 31 * torch.rand(1, 2, 68, 2)
        >>> painters, own = critics(video, video, video, points)
        >>> own.item() > 0
        True
    """

    def __init__(self, mouth_size: int = 48) -> None:
        super().__init__()
        self.mouth_size = mouth_size
        self.mouth, self.face = PatchDiscriminator(), PatchDiscriminator()

    def forward(
        self, painted: Tensor, truth: Tensor, carrier: Tensor, landmarks: Tensor, heard: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Return what the painter is told, and what the judges learn from; one backward pass serves both.

        Args:
            painted: (B, 3, T, H, W) in [-1, 1].
            truth: (B, 3, T, H, W).
            carrier: (B, 3, T, H, W), the warped portrait.
            landmarks: (B, T, 68, 2) px of the frames.
            heard: whether the painter is told; otherwise its loss is 0 and costs nothing.

        Returns:
            The painter's loss, without a gradient for the judges; the judges' loss, without one for the painter.
        """
        painter, own = painted.new_zeros(()), painted.new_zeros(())
        for judge, cut in ((self.mouth, self._mouth), (self.face, _frames)):
            fake, real, beside = (cut(video, landmarks) for video in (painted, truth, carrier))
            own = own + F.relu(1 - judge(real, beside)).mean() + F.relu(1 + judge(fake.detach(), beside)).mean()
            if heard:
                judge.requires_grad_(False)
                painter = painter - judge(fake, beside).mean()
                judge.requires_grad_(True)
        return painter, _QUIET * own

    def _mouth(self, video: Tensor, landmarks: Tensor) -> Tensor:
        """Cut the square around each frame's mouth: (B T, 3, m, m)."""
        side = video.shape[-1]
        mouth = landmarks[..., MOUTH, :].flatten(0, 1)
        low, high = mouth.amin(1), mouth.amax(1)
        centre, half = (low + high) / 2, 0.75 * (high - low).amax(-1, keepdim=True).clamp_min(4)
        steps = (torch.arange(self.mouth_size, device=video.device) + 0.5) / self.mouth_size * 2 - 1
        grid = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1)
        places = centre[:, None, None] + half[:, None, None] * grid
        return F.grid_sample(
            _frames(video), (places + 0.5) / side * 2 - 1, padding_mode="reflection", align_corners=False
        )


def _frames(video: Tensor, landmarks: Tensor | None = None) -> Tensor:
    return rearrange(video, "b c t h w -> (b t) c h w")
