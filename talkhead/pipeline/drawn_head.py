"""The head's drawn motion laid over what the speech moves: the net thinks at its own rate, the video at any."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from talkhead.data.clip import SAMPLE_RATE
from talkhead.face.head_state import close_lids, move_head, still_head
from talkhead.face.points import EYES
from talkhead.media.recording import Recording
from talkhead.nets.head_motion import RATE, HeadMotionNet
from talkhead.speech.level import sample_at, speech_level
from talkhead.speech.prosody import prosody

HOME_SECONDS = 10.0
"""How fast the head leaves the portrait's pose for a habitual one of its own: the draw's first pose fades out so."""


def draw_head(
    net: HeadMotionNet,
    moved: Iterator[Tensor],
    speech: Tensor | Recording,
    face: Tensor,
    emotion: Tensor,
    fps: float,
    gains: Mapping[str, float] | None = None,
    seed: int = 0,
) -> Iterator[Tensor]:
    """Give a speaking face a head, brows and lids that live.

    What the landmark generator says of them, a mean, is taken out, and what the net draws is put in its place. The
    first frame has the portrait's pose. A frame's motion does not depend on the pieces that the track comes in.

    Args:
        net: draws the motion.
        moved: (t, 68, 2) px, the consecutive pieces of the track.
        speech: (S,) waveform at 16 kHz.
        face: (68, 2) px: the portrait.
        emotion: (8,) probabilities.
        fps: frames per second of the track.
        gains: of ``pose`` (shift, size, roll, yaw, pitch), ``brow`` and ``blink``, 1 where left out; lids never close
            further than shut.
        seed: chooses the draw.

    Yields:
        (t, 68, 2) px.
    """
    gains = {"pose": 1.0, "brow": 1.0, "blink": 1.0, **(gains or {})}
    gain = torch.tensor([gains["pose"]] * 6 + [gains["brow"]] * 2)
    thought = max(1, math.ceil(len(speech) / SAMPLE_RATE * RATE))
    heard = prosody(speech.cpu(), speech_level(speech.cpu()), thought).to(net.device)
    emotion = emotion.to(net.device)
    start, _ = _drawn(net, heard, emotion, seed, 0, 1, fps)
    done = 0
    for part in moved:
        state, closing = _drawn(net, heard, emotion, seed, done, len(part), fps)
        seconds = torch.arange(done, done + len(part)) / fps
        state = gain * (state - start * torch.exp(-seconds / HOME_SECONDS).unsqueeze(-1))
        still = still_head(part, face)
        still[:, EYES] = face[EYES]
        shut = (gains["blink"] * closing).clamp(0, 1)
        yield move_head(close_lids(still, shut.to(part)), face, state.to(part))
        done += len(part)


def _drawn(
    net: HeadMotionNet, heard: Tensor, emotion: Tensor, seed: int, first: int, count: int, fps: float
) -> tuple[Tensor, Tensor]:
    """Return (count, 8) states and (count,) closings of a video's frames, read between the net's own."""
    places = (torch.arange(first, first + count) + 0.5) / fps * RATE - 0.5
    low = math.floor(places[0].item())
    state, closing = net.draw(heard, emotion, seed, low, math.ceil(places[-1].item()) - low + 1)
    both = torch.cat([state, closing.unsqueeze(-1)], dim=-1).cpu()
    read = sample_at(both.mT.unsqueeze(0), places - low)[0].mT
    return read[:, :-1], read[:, -1]
