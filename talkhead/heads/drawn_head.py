"""The head's drawn motion laid over what the speech moves: the net thinks at its own rate, the video at any."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from talkhead.face.head_state import RestingHead, close_lids
from talkhead.face.points import EYES
from talkhead.nets.head_motion import RATE, HeadMotionNet
from talkhead.ops.blink_clock import BlinkClock
from talkhead.speech.level import num_frames_of, sample_at, speech_level
from talkhead.speech.pitch import GrowingPitchgram
from talkhead.speech.prosody import prosody
from talkhead.speech.recording import Recording


class DrawnHead:
    """Give a speaking face a head, brows and lids that live, in place of the landmark generator's mean.

    The first frame has the portrait's pose, and the head returns to it: what the draw's first frame tells of the later
    ones, by the process' own correlation, is taken away. The pieces that the track comes in do not matter.

    Args:
        net: draws the motion.
        face: (68, 2) px: the portrait.
        emotion: (8,) probabilities.
        fps: frames per second of the track.
        gains: of ``pose`` (shift, size, roll, yaw, pitch), ``brow`` and ``blink``, 1 where left out; lids never close
            further than shut.
        seed: chooses the draw.
    """

    def __init__(
        self,
        net: HeadMotionNet,
        face: Tensor,
        emotion: Tensor,
        fps: float,
        gains: Mapping[str, float] | None = None,
        seed: int = 0,
    ) -> None:
        gains = {"pose": 1.0, "brow": 1.0, "blink": 1.0, **(gains or {})}
        self._gain, self._blink = torch.tensor([gains["pose"]] * 6 + [gains["brow"]] * 2), gains["blink"]
        self._net, self._face, self._emotion, self._fps, self._seed = net, face, emotion.to(net.device), fps, seed
        self._clock, self._resting = BlinkClock(seed), RestingHead(face)
        self._start: Tensor | None = None

    def __call__(self, moved: Tensor, first: int, heard: Tensor, heard_from: int = 0) -> Tensor:
        """Lay the drawn motion over a track's next frames.

        Args:
            moved: (t, 68, 2) px.
            first: number of their first.
            heard: (P, N) from ``prosody`` at the net's ``RATE``; held beyond its ends.
            heard_from: number of its first frame, at ``RATE``.

        Returns:
            (t, 68, 2) px.
        """
        heard = heard.to(self._emotion.device)
        if self._start is None:
            self._start = self._drawn(heard, heard_from, 0, 1)[0]
        state, closing = self._drawn(heard, heard_from, first, len(moved))
        lags = torch.arange(first, first + len(moved)) / self._fps * RATE
        state = self._gain * (state - self._start * self._net.memory(lags).cpu())
        still = self._resting.split(moved)[1]
        still[:, EYES] = self._face[EYES]
        shut = (self._blink * closing).clamp(0, 1)
        return self._resting.move(close_lids(still, shut.to(moved)), state.to(moved))

    def _drawn(self, heard: Tensor, heard_from: int, first: int, count: int) -> tuple[Tensor, Tensor]:
        """Return (count, 8) states and (count,) closings of a video's frames, read between the net's own."""
        places = (torch.arange(first, first + count) + 0.5) / self._fps * RATE - 0.5
        low = math.floor(places[0].item())
        count = math.ceil(places[-1].item()) - low + 1
        state, closing = self._net.draw(heard, self._emotion, self._seed, low, count, self._clock, heard_from)
        both = torch.cat([state, closing.unsqueeze(-1)], dim=-1).cpu()
        read = sample_at(both.mT.unsqueeze(0), places - low)[0].mT
        return read[:, :-1], read[:, -1]


def draw_head(lay: DrawnHead, moved: Iterator[Tensor], speech: Tensor | Recording) -> Iterator[Tensor]:
    """Yield the consecutive (t, 68, 2) px pieces of a track with a drawn head, all of (S,) speech being heard."""
    heard, done = hear_prosody(speech, speech_level(speech.cpu())), 0
    for part in moved:
        yield lay(part, done, heard)
        done += len(part)


def hear_prosody(speech: Tensor | Recording, level: Tensor, gram: GrowingPitchgram | None = None) -> Tensor:
    """Return the (P, N) prosody of (S,) speech at the net's ``RATE``, the last frame begun included."""
    return prosody(speech.cpu(), level, num_frames_of(len(speech), RATE), gram)
