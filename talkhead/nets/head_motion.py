"""What sound does not determine is drawn: the motion of head and brows by flow matching, blinks as a point process.

The state y_t (``face/head_state.py``: shift, size, roll, yaw, pitch, brows) is sampled by following

    dx/ds = v(x, s, speech),   s from 0 to 1,   x(0) = n,   x(1) = y      [flow matching, Lipman et al. 2023]

in one to four midpoint steps. The source n is not white noise but has the motion's own spectrum: a sum of Gaussian
processes of six time scales whose shares are fitted to the structure function E|y_{t+l} - y_t|^2 of the training clips.
So the slow part comes from the source and v, a convolution of half a second to each side, need only bend it to what is
said. Everything is a convolution of numbers that are functions of (seed, frame): a frame's motion is the same whatever
window it is computed in, it needs constant memory, is stationary (no drift) and does not repeat (no loop).

Lids close with an intensity exp(w . speech), one blink in each unit of its integral (``ops/blink_clock.py``), with the
training clips' mean course.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from talkhead.data.clip import EMOTIONS
from talkhead.face.head_state import STATE
from talkhead.ops.blink_clock import BlinkClock
from talkhead.ops.smooth_noise import SCALES, SOURCE_REACH, gaussian, kernels, structure_function
from talkhead.speech.prosody import PROSODY

RATE = 25
"""Frames per second at which the net thinks."""
BLINK_BEFORE, BLINK_AFTER = 6, 15
"""Frames of a blink's course before and after the lids are closest."""


class HeadMotionNet(ModelMixin, ConfigMixin):
    """Draws a head's motion for a stretch of speech (see the module's docstring).

    The emotion enters relative to ``neutral`` with zero weight at first, as in ``LandmarkNet``. What is measured on the
    training clips (spectrum, sizes, blinks) are buffers: an untrained net draws the still head.

    Args:
        width: channels of the velocity's net.
        dilations: of its convolutions (kernel 5).
        steps: midpoint steps of the flow, 1 to 8.
    """

    spectrum: Tensor
    spread: Tensor
    gain: Tensor
    blink: Tensor
    blink_rate: Tensor

    @register_to_config
    def __init__(self, width: int = 64, dilations: Sequence[int] = (1, 2, 4), steps: int = 4) -> None:
        super().__init__()
        if not 1 <= steps <= 8:
            raise ValueError(f"steps must be 1 to 8; got {steps}")
        state = len(STATE)
        self.entry = nn.Conv1d(state + PROSODY, width, 1)
        self.time = nn.Sequential(nn.Linear(16, width), nn.SiLU(), nn.Linear(width, width))
        self.emotion = nn.Linear(len(EMOTIONS), width, bias=False)
        nn.init.zeros_(self.emotion.weight)
        self.layers = nn.ModuleList(nn.Conv1d(width, width, 5, dilation=d) for d in dilations)
        self.exit = nn.Conv1d(width, state, 1)
        nn.init.zeros_(self.exit.weight)
        nn.init.zeros_(self.exit.bias)  # type: ignore[arg-type]
        self.hazard = nn.Conv1d(PROSODY, 1, 1)
        nn.init.zeros_(self.hazard.weight)
        self.register_buffer("spectrum", torch.ones(state, len(SCALES)) / len(SCALES))
        self.register_buffer("spread", torch.zeros(state))
        self.register_buffer("gain", torch.ones(state))
        self.register_buffer("blink", torch.zeros(BLINK_BEFORE + BLINK_AFTER + 1))
        self.register_buffer("blink_rate", torch.zeros(()))

    @property
    def reach(self) -> int:
        """Frames to each side that one evaluation of the velocity sees."""
        return 2 * sum(self.config.dilations)

    def velocity(self, x: Tensor, s: Tensor, heard: Tensor, emotion: Tensor) -> Tensor:
        """Return v(x, s, speech).

        Args:
            x: (B, 8, N) states over their spread.
            s: (B,) in [0, 1].
            heard: (B, P, N) from ``prosody``.
            emotion: (B, 8) probabilities.

        Returns:
            (B, 8, N - 2 reach): the frames that have all their neighbours. Nothing is padded.

        Raises:
            ValueError: if there are none.
        """
        if x.shape[-1] <= 2 * self.reach:
            raise ValueError(
                f"states must have more than {2 * self.reach} frames, twice what the net's dilations reach; got "
                f"{x.shape[-1]}: take longer windows (data.num_frames) or smaller dilations"
            )
        return self._slope(x, self._told(s, emotion), heard)

    def _told(self, s: Tensor, emotion: Tensor) -> Tensor:
        angle = s[:, None] * math.pi * 2 ** torch.arange(8, device=s.device)
        neutral = F.one_hot(torch.tensor(EMOTIONS.index("neutral")), len(EMOTIONS)).to(emotion)
        return self.time(torch.cat([angle.sin(), angle.cos()], 1)) + self.emotion(emotion - neutral)

    def _slope(self, x: Tensor, told: Tensor, heard: Tensor) -> Tensor:
        h = _convolved(self.entry, torch.cat([x, heard], 1)) + told.unsqueeze(-1)
        for layer in self.layers:
            inner = _convolved(layer, F.silu(h))
            cut = (h.shape[-1] - inner.shape[-1]) // 2
            h = h[..., cut : h.shape[-1] - cut] + inner
        return _convolved(self.exit, F.silu(h))

    def source(self, seed: int, first: int, count: int) -> Tensor:
        """Return the source's frames ``first`` to ``first + count - 1``: (8, count), unit spread."""
        white = gaussian(seed, first - SOURCE_REACH, count + 2 * SOURCE_REACH, len(STATE) * len(SCALES))
        return self.coloured(white.to(self.spectrum).unflatten(0, (len(STATE), len(SCALES))))

    def coloured(self, white: Tensor) -> Tensor:
        """Give white noise (..., 8, 6, N + 144) the motion's spectrum: (..., 8, N)."""
        flat = white.reshape(-1, len(SCALES), white.shape[-1])
        parts = F.conv1d(flat, kernels().to(white), groups=len(SCALES)).unflatten(0, white.shape[:-2])
        return (parts * self.spectrum.sqrt().unsqueeze(-1)).sum(-2)

    @torch.no_grad()
    def draw(
        self,
        heard: Tensor,
        emotion: Tensor,
        seed: int,
        first: int,
        count: int,
        clock: BlinkClock | None = None,
        heard_from: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """Draw the motion of some frames of a recording.

        Args:
            heard: (P, N) from ``prosody``, at ``RATE``, of what has been heard; held beyond its ends.
            emotion: (8,) probabilities.
            seed: chooses the draw.
            first: first frame, at ``RATE``; may lie beyond the recording.
            count: how many.
            clock: of the seed: counts the blinks on from earlier calls; None: from the recording's start.
            heard_from: number of the first frame of ``heard``.

        Returns:
            (count, 8) states and (count,) how far the lids are closed, in [0, 1].
        """
        steps = self.config.steps
        margin = 2 * steps * self.reach
        index = torch.arange(first - margin, first + count + margin, device=heard.device)
        around = heard[:, (index - heard_from).clamp(0, heard.shape[1] - 1)].unsqueeze(0)
        x = self.source(seed, first - margin, count + 2 * margin).unsqueeze(0)
        told = self._told(torch.arange(2 * steps).to(x) / (2 * steps), emotion.unsqueeze(0))
        for begun, between in told.view(steps, 2, 1, -1):
            x = self._midpoint(x, begun, between, 1 / steps, around)
        state = x[0].mT * self.spread * self.gain
        return state, self._closing(heard, first, count, clock or BlinkClock(seed), heard_from)

    def _midpoint(self, x: Tensor, begun: Tensor, between: Tensor, h: float, heard: Tensor) -> Tensor:
        """Take one midpoint step; the result has ``2 * reach`` frames less at both ends."""
        cut = (heard.shape[-1] - x.shape[-1]) // 2
        heard = heard[..., cut : heard.shape[-1] - cut]
        reach = self.reach
        half = x[..., reach:-reach] + h / 2 * self._slope(x, begun, heard)
        return x[..., 2 * reach : -2 * reach] + h * self._slope(half, between, heard[..., reach:-reach])

    def memory(self, lags: Tensor) -> Tensor:
        """Return (L, 8): the process' correlation, what a state tells of the one (L,) frames later."""
        return 1 - 0.5 * structure_function(lags).to(self.spectrum) @ self.spectrum.mT

    def intensity(self, heard: Tensor) -> Tensor:
        """Return the (..., N) logarithm of the blinks' intensity per frame, before ``blink_rate``."""
        return self.hazard(heard).squeeze(-2)

    @torch.no_grad()
    def blink_moments(self, heard: Tensor, first: int, count: int, clock: BlinkClock, heard_from: int = 0) -> Tensor:
        """Return the (count,) bool frames at which lids are closest; none at the start, which is the portrait."""
        rate = self.intensity(heard).double().exp() * self.blink_rate
        early = torch.arange(first, first + count) <= BLINK_BEFORE
        return clock.moments(rate, first, count, heard_from).masked_fill(early, False).to(heard.device)

    def _closing(self, heard: Tensor, first: int, count: int, clock: BlinkClock, heard_from: int) -> Tensor:
        """Return the (count,) closing of the lids: the blinks' courses around their moments."""
        moments = self.blink_moments(heard, first - BLINK_AFTER, count + BLINK_BEFORE + BLINK_AFTER, clock, heard_from)
        return F.conv1d(moments.to(self.blink)[None, None], self.blink.flip(0)[None, None])[0, 0].clamp(0, 1)


def _convolved(layer: nn.Module, x: Tensor) -> Tensor:
    """Return ``layer(x)`` as one product: of a few hundred frames a convolution's preparations take longer than it."""
    assert isinstance(layer, nn.Conv1d) and layer.bias is not None
    (taps,), (dilation,) = layer.kernel_size, layer.dilation
    kept = x.shape[-1] - dilation * (taps - 1)
    seen = torch.cat([x[..., tap * dilation :][..., :kept] for tap in range(taps)], 1)
    return layer.weight.mT.flatten(1) @ seen + layer.bias.unsqueeze(-1)
