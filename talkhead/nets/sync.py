"""A judge of lip synchrony: half a second of sound and half a second of lips, near to each other where they belong.

Two encoders, convolutions of ``WINDOW`` frames, answer unit vectors a_t for the sound around frame t and v_t for the
lips. For a clip the similarity at lag l is the mean over t of <v_t, a_{t - l}>: its maximum's place is how many frames
the lips come late, its height above the median over all lags the confidence, as of SyncNet (Chung and Zisserman 2016),
which looks at pixels; here only landmarks are seen, so any face, painted or not, can be judged.

The lips are written in the face's own coordinates without the head's motion, from their mean over the clip, over their
spread in the clip: who speaks, how wide he opens his mouth, and where the head goes are not seen.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from talkhead.data.clip import SAMPLE_RATE
from talkhead.face.frame import face_frame, to_face
from talkhead.face.head_state import still_head
from talkhead.face.points import CHIN, MOUTH
from talkhead.nets.audio import LogMelEncoder
from talkhead.speech.level import speech_level

RATE = 25
"""Frames per second at which the lips are seen."""
WINDOW = 13
"""Frames of one look: half a second."""
MAX_LAG = 15
"""Frames to both sides that are searched."""


class Sync(NamedTuple):
    """How lips and sound of one clip belong together.

    Attributes:
        offset: frames at 25 per second by which the lips come late; 0 for a still face.
        confidence: the best lag's mean similarity less the median over all lags; 0 for a still face.
        match: the mean similarity at lag 0, in [-1, 1].
    """

    offset: int
    confidence: float
    match: float


class SyncNet(ModelMixin, ConfigMixin):
    """The two encoders (see the module's docstring).

    Args:
        width: channels of both.
        dimensions: of the vectors.
        dropout: probability in both.
    """

    @register_to_config
    def __init__(self, width: int = 64, dimensions: int = 64, dropout: float = 0.2) -> None:
        super().__init__()
        self.sound = LogMelEncoder(width, dropout=dropout)
        points = 2 * (MOUTH.stop - MOUTH.start + CHIN.stop - CHIN.start)
        self.lips = nn.Sequential(
            nn.Conv1d(2 * points, width, 1), nn.GELU(), nn.Dropout1d(dropout), nn.Conv1d(width, width, 3, padding=1)
        )
        self.look = nn.ModuleList(
            nn.Sequential(
                nn.GELU(), nn.Conv1d(width, 2 * width, WINDOW), nn.GELU(), nn.Conv1d(2 * width, dimensions, 1)
            )
            for _ in range(2)
        )
        self.temperature = nn.Parameter(torch.tensor(2.5))

    def forward(self, landmarks: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Encode a clip's lips and its sound.

        Args:
            landmarks: (B, T, 68, 2) px at 25 frames per second, finite, T >= 13.
            audio: (B, S) waveforms at 16 kHz that span the frames.

        Returns:
            Two (B, T - 12, D) sets of unit vectors: the lips', the sound's.

        Raises:
            ValueError: if the shapes do not fit, or there are fewer than 13 frames.
        """
        if landmarks.ndim != 4 or landmarks.shape[2:] != (68, 2) or landmarks.shape[1] < WINDOW:
            raise ValueError(
                f"landmarks must be (B, T, 68, 2) with T >= {WINDOW} frames, half a second; "
                f"got {tuple(landmarks.shape)}"
            )
        if audio.ndim != 2 or len(audio) != len(landmarks):
            raise ValueError(f"audio must be (B, S) beside B = {len(landmarks)} clips; got {tuple(audio.shape)}")
        heard = self.sound(audio / speech_level(audio).unsqueeze(-1), landmarks.shape[1]).mT
        seen = self.lips(lip_shapes(landmarks).mT)
        views = (look(x).mT for look, x in zip(self.look, (seen, heard), strict=True))
        lips, sound = (F.normalize(x, dim=-1) for x in views)
        return lips, sound

    @torch.no_grad()
    def judge(self, landmarks: Tensor, audio: Tensor, fps: float = 25.0) -> Sync:
        """Judge one clip.

        Args:
            landmarks: (T, 68, 2) px; frames with NaN are filled from their neighbours.
            audio: (S,) waveform at 16 kHz of the same time.
            fps: frames per second of the landmarks; other rates than 25 are read between frames.

        Raises:
            ValueError: if there is less than half a second, or no finite frame.
        """
        self.eval()
        track = at_rate(landmarks, fps, len(audio) / SAMPLE_RATE)
        lips, sound = self(track[None].to(self.device), audio[None].to(self.device))
        if lip_shapes(track[None]).abs().max() == 0:  # nothing moves: no lag is better than another
            return Sync(0, 0.0, 0.0)
        curve = lag_curve(lips[0], sound[0])
        best = int(curve.argmax())
        reach = (len(curve) - 1) // 2
        return Sync(best - reach, (curve[best] - curve.median()).item(), curve[reach].item())


def lip_shapes(landmarks: Tensor) -> Tensor:
    """Write lips and chin as the net sees them.

    Args:
        landmarks: (B, T, 68, 2) px.

    Returns:
        (B, T, 100): the 25 points and their changes, without head motion, from their mean over the clip, over the
        spread of all of them; 0 where nothing moves.
    """
    rest = landmarks.mean(1)
    centre, turn = face_frame(rest)
    still = to_face(still_head(landmarks, rest), (centre.unsqueeze(1), turn.unsqueeze(1)))
    points = torch.cat([still[..., MOUTH, :], still[..., CHIN, :]], dim=-2).flatten(-2)
    points = points - points.mean(1, keepdim=True)
    spread = points.square().mean((1, 2), keepdim=True).sqrt()
    # Below a ten-thousandth of the face's size nothing moves but rounding.
    points = torch.where(spread > 1e-4, points / spread.clamp_min(1e-4), 0.0)
    return torch.cat([points, F.pad(2 * points.diff(dim=1), (0, 0, 1, 0))], dim=-1)


def lag_curve(lips: Tensor, sound: Tensor, max_lag: int = MAX_LAG) -> Tensor:
    """Return (2 L + 1,) mean similarities of (N, D) unit vectors at lags -L..L; positive: the lips come late.

    Every lag is averaged over the windows that it has; L is at most half of N.
    """
    table = lips @ sound.mT
    reach = min(max_lag, len(table) // 2)
    return torch.stack([table.diagonal(-lag).mean() for lag in range(-reach, reach + 1)])


def at_rate(landmarks: Tensor, fps: float, seconds: float) -> Tensor:
    """Read a (T, 68, 2) track at 25 frames per second, filling missing frames from their neighbours.

    Raises:
        ValueError: if no frame is finite.
    """
    seen = landmarks.isfinite().flatten(1).all(1)
    if not seen.any():
        raise ValueError("landmarks must be finite in some frame; got none: no face was found")
    known = seen.nonzero()[:, 0].double()
    count = max(1, round(seconds * RATE))
    place = (torch.arange(count, dtype=torch.float64, device=known.device) + 0.5) / RATE * fps - 0.5
    right = torch.searchsorted(known, place).clamp(max=len(known) - 1)
    left = (right - 1).clamp_min(0)
    gap = (known[right] - known[left]).clamp_min(1e-9)
    share = ((place - known[left]) / gap).clamp(0, 1).float()[:, None, None]
    track = landmarks[seen].float()
    return torch.lerp(track[left], track[right], share)
