"""When lids close: one blink in each unit of the integral of their intensity, at a random place in it.

So their number varies less than a Poisson process', as in people. A blink within a third of a second of the one before
it is left out.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from talkhead.ops.philox import philox4x32, split_seed, uniform

REFRACTORY = 8
"""Frames after a blink in which no other begins."""
BLINK_CHANNEL = 1 << 20
"""The random numbers' channel of the blinks, far from those of the head's motion."""


class BlinkClock:
    """Counts the blinks' intensity from a recording's first frame on, however much of the recording is at hand.

    What has been counted stays: a blink that has begun does not move when its sound is heard anew. Only the last
    frames' counts are kept.

    Args:
        seed: chooses the blinks' places.

    Example:
        >>> whole = BlinkClock(3).moments(torch.full((90,), 0.02), 0, 90)
        >>> clock = BlinkClock(3)
        >>> parts = [clock.moments(torch.full((30,), 0.02), first, 30, rate_from=first) for first in (0, 30, 60)]
        >>> torch.equal(torch.cat(parts), whole)
        True
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._first, self._passed = 0, torch.zeros(1, dtype=torch.float64)  # the integral at the frames' starts

    def moments(self, rate: Tensor, first: int, count: int, rate_from: int = 0) -> Tensor:
        """Return the (count,) bool frames at which lids are closest.

        Args:
            rate: (N,) blinks per frame; held beyond its ends.
            first: first frame, none before those of an earlier call; there are no blinks before frame 0.
            count: how many.
            rate_from: number of the first frame of ``rate``.
        """
        counted = self._first + len(self._passed) - 1
        new = (torch.arange(counted, max(counted, first + count)) - rate_from).clamp(0, len(rate) - 1)
        more = torch.cat([self._passed[-1:], rate.cpu().double()[new]]).cumsum(0)
        self._passed = torch.cat([self._passed[:-1], more])
        # Only a blink just before the first frame matters to what comes.
        if (late := first - REFRACTORY - 1 - self._first) > 0:
            self._first, self._passed = self._first + late, self._passed[late:].clone()
        low = max(0, math.floor(self._passed[0].item()) - 1)
        unit = torch.arange(low, math.floor(self._passed[-1].item()) + 1)
        low_word, high_word = split_seed(unit)
        words = (low_word, high_word, torch.tensor(BLINK_CHANNEL), torch.zeros_like(low_word))
        place = unit + uniform(philox4x32(words, split_seed(torch.tensor(self._seed)))[0]).double()
        frame = self._first + torch.searchsorted(self._passed, place, right=True) - 1
        # A blink looks at the one before it alone, kept or not: no chain reaches back.
        apart = torch.cat([frame.new_full((1,), REFRACTORY + 1), frame.diff()]) > REFRACTORY
        moments = torch.zeros(count, dtype=torch.bool)
        moments[frame[apart & (frame >= first) & (frame < first + count)] - first] = True
        return moments
