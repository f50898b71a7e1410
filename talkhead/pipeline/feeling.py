"""Which emotion a video shows when: as it was asked for, or as it is heard; and what the networks are left to do of it.

Time is cut by keys: from key i at t_i on the emotion is p_i, a probability vector. What is asked for is that staircase;
what is shown climbs it by raised cosines c of ``ease`` seconds,

    p(t) = neutral + sum_i c((t - t_i) / ease) (p_i - p_{i-1}),      p_{-1} = neutral,

a mixture at every moment whatever the keys' spacing, and a function of the time alone: cut the video into pieces as
you like, the frames are the same.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from talkhead.data.clip import EMOTIONS, emotion_probabilities
from talkhead.media.files import check_writable, replacing
from talkhead.media.write import MediaWarning
from talkhead.short_repr import short_repr

if TYPE_CHECKING:
    from diffusers import ConfigMixin

EASE_SECONDS = 0.5
"""How long a face takes from one expression to the next."""

PLOTS = (".png", ".svg", ".pdf")
"""What the plot of an emotion can be written as."""

NEUTRAL = emotion_probabilities("neutral")

_KINDS = "emotion must be a name, 8 probabilities, a mapping, or a track of pairs (seconds, emotion)"


@short_repr
@dataclass(frozen=True, eq=False)
class EmotionKeys:
    """An emotion over time.

    Attributes:
        times: (N,) float64 seconds, rising; the first is 0.
        asked: (N, 8) probabilities from each time on.
        meant: (N, 8) what of them the face is to show; the same, where the emotion was asked for.
        ease: seconds from one key's expression to the next.
    """

    times: Tensor
    asked: Tensor
    meant: Tensor
    ease: float = EASE_SECONDS

    def asked_at(self, times: Tensor) -> Tensor:
        """Return the (T, 8) probabilities asked for, or heard, at (T,) seconds."""
        return self.asked[(torch.searchsorted(self.times, times.double(), right=True) - 1).clamp_min(0)]

    def shown_at(self, times: Tensor) -> Tensor:
        """Return the (T, 8) mixture that the face shows at (T,) seconds; see the module's docstring."""
        steps, base = torch.diff(self.meant, dim=0, prepend=NEUTRAL[None]), torch.cat([NEUTRAL[None], self.meant])
        times, count = times.double(), len(self.times)
        # Of the keys of an hour only the one or two count that are being climbed; those before them make up ``base``.
        done = torch.searchsorted(self.times, times - self.ease, right=True)
        reach = torch.searchsorted(self.times, self.times + self.ease, right=True) - torch.arange(count)
        shown = base[done]
        for ahead in range(int(reach.max())):
            key = (done + ahead).clamp_max(count - 1)
            place = ((times - self.times[key]) / self.ease).clamp(0, 1) * (done + ahead < count)
            shown = shown + (0.5 - 0.5 * torch.cos(math.pi * place)).float()[:, None] * steps[key]
        return shown

    def told_at(self, times: Tensor, net: ConfigMixin, strength: float) -> Tensor:
        """Return what a network is told at (T,) seconds: (T, 8), or (8,) where it is the same at all times."""
        told = leave_to(net, self.shown_at(times), strength)
        return told[0] if (told == told[0]).all() else told

    def track(self, start: int, stop: int, fps: Fraction) -> EmotionTrack:
        """Return the emotion of frames ``start`` to ``stop``."""
        times = torch.arange(start, stop, dtype=torch.float64) / float(fps)
        return EmotionTrack(self.asked_at(times), self.shown_at(times), fps, start)


@short_repr
@dataclass(frozen=True, eq=False)
class EmotionTrack:
    """The emotion of every frame of a video, or of a piece of one.

    Attributes:
        asked: (T, 8) probabilities in the order of `EMOTIONS`, as asked for or as heard.
        shown: (T, 8) the mixture that the face shows, before strength and breath.
        fps: frames per second.
        start: index of the first frame in the whole video.
    """

    asked: Tensor
    shown: Tensor
    fps: Fraction
    start: int = 0

    @property
    def mean(self) -> dict[str, float]:
        """The probability of each emotion's name on average."""
        first = self.asked[0]
        mean = first if (self.asked == first).all() else self.asked.double().mean(0)
        return dict(zip(EMOTIONS, mean.tolist(), strict=True))

    def word(self, frame: int) -> str:
        """Say what one frame shows most, and how much of it: ``happy 0.85``."""
        share, which = self.shown[frame].max(0)
        return f"{EMOTIONS[int(which)]} {share:.2f}"

    def plot(self, path: str | Path) -> None:
        """Draw what was asked for, or heard, and what is shown of it over time, as a .png, .svg or .pdf.

        Raises:
            OSError: if it cannot be written.
        """
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 4), layout="constrained")
        times = (self.start + torch.arange(len(self.asked))) / float(self.fps)
        for axes, values, title in zip(
            figure.subplots(2, 1, sharex=True), (self.asked, self.shown), ("asked for, or heard", "shown"), strict=True
        ):
            axes.stackplot(times, values.mT, labels=EMOTIONS)
            axes.set(ylim=(0, 1), ylabel=title)
            axes.margins(x=0)
        axes.set_xlabel("s")
        handles, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside right center", reverse=True)  # as they lie on each other
        with replacing(path) as unfinished:
            figure.savefig(unfinished)


def check_plot(path: str | Path) -> None:
    """Refuse what `EmotionTrack.plot` could not write, before the work begins.

    Raises:
        ValueError: if the name has another ending than .png, .svg or .pdf.
        OSError: if it is a folder, or its own does not exist or refuses files.
    """
    if Path(path).suffix not in PLOTS:
        raise ValueError(f"plot_emotion must be a file that ends in {', '.join(PLOTS)}; got '{path}'")
    check_writable(path, "plot_emotion")


def warn_unmoved(keys: EmotionKeys, renderer: Any) -> None:
    """Warn where an emotion was asked for that changes nothing: landmarks were given, and the renderer knows none."""
    unknown = left_by(renderer, keys.asked)
    if (keys.asked != NEUTRAL).any() and torch.equal(unknown, keys.asked * (1 - NEUTRAL)):
        warnings.warn(
            "emotion changes nothing where landmarks are given, which are painted as they are: leave one of them out, "
            "or put the expression on the landmarks first (talkhead.face.expression)",
            MediaWarning,
            stacklevel=4,
        )


def join_tracks(tracks: Sequence[EmotionTrack]) -> EmotionTrack:
    """Join the tracks of a video's pieces."""
    asked, shown = (torch.cat([getattr(track, name) for track in tracks]) for name in ("asked", "shown"))
    return EmotionTrack(asked, shown, tracks[0].fps, tracks[0].start)


def emotion_keys(emotion: Any) -> EmotionKeys:
    """Return the keys that a user's ``emotion`` means.

    Args:
        emotion: for the whole video a name of `EMOTIONS`, 8 probabilities, or a mapping name -> probability; over time
            a text such as ``"0 neutral, 2.5 happy, 6 sad"`` or a list of pairs (seconds, any of the former).

    Raises:
        ValueError: if a name is unknown, values are no probabilities, or times do not rise from 0 or more.
    """
    if isinstance(emotion, str) and emotion.strip()[:1].isdigit():
        emotion = [_key(part) for part in emotion.split(",")]
    if not isinstance(emotion, Sequence) or isinstance(emotion, str) or not _are_pairs(emotion):
        emotion = [(0.0, emotion)]
    if wrong := [time for time, _ in emotion if not isinstance(time, Real | Tensor)]:
        raise ValueError(f"emotion: the times of a track must be seconds, as numbers; got {wrong[0]!r}")
    times = torch.tensor([float(time) for time, _ in emotion], dtype=torch.float64)
    if not times.isfinite().all() or times[0] < 0 or (times.diff() <= 0).any():
        raise ValueError(f"emotion: the times of a track must rise, from 0 s on; got {times.tolist()}")
    asked = torch.stack([named_emotion(what) for _, what in emotion])
    if times[0] > 0:
        times, asked = F.pad(times, (1, 0)), torch.cat((NEUTRAL[None], asked))
    return EmotionKeys(times, asked, asked)


def _are_pairs(emotion: Sequence[Any]) -> bool:
    """Tell a list of (seconds, emotion) from a list of 8 probabilities."""
    pairs = (isinstance(key, Sequence) and not isinstance(key, str) and len(key) == 2 for key in emotion)
    return len(emotion) > 0 and all(pairs)


def _key(part: str) -> tuple[float, str]:
    """Read one key of a track in words, "2.5 happy"."""
    time, _, name = part.strip().partition(" ")
    try:
        return float(time), name.strip()
    except ValueError:
        raise ValueError(
            f"emotion: a track is written '0 neutral, 2.5 happy, 6 sad', seconds before each name; got {part.strip()!r}"
        ) from None


def named_emotion(emotion: str | Mapping[str, float] | Tensor | list[float]) -> Tensor:
    """Return (8,) probabilities from a name, a mapping name -> probability, or probabilities.

    Raises:
        ValueError: if a name is unknown or the values are no probabilities.
    """
    if isinstance(emotion, Mapping):
        if wrong := {n: w for n, w in emotion.items() if not isinstance(n, str) or not isinstance(w, Real | Tensor)}:
            raise ValueError(
                f"emotion: a mixture is of names and numbers, as {{'happy': 0.7, 'sad': 0.3}}; got {wrong}"
            )
        parts = [weight * emotion_probabilities(name) for name, weight in emotion.items()]
        emotion = torch.stack(parts).sum(0) if parts else torch.zeros(len(EMOTIONS))
    if not isinstance(emotion, str):
        emotion = _values(emotion)
    probabilities = emotion_probabilities(emotion)
    if probabilities.ndim != 1:
        raise ValueError(f"{_KINDS}; got shape {tuple(probabilities.shape)}")
    return probabilities.cpu()


def _values(emotion: Any) -> Tensor:
    """Return what is no name as a tensor; several whole numbers are probabilities, too, not indices."""
    try:
        value = torch.as_tensor(emotion)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{_KINDS}; got {emotion!r:.80}") from None
    if not value.ndim and value.dtype != torch.int64:  # one number can be an index alone
        raise ValueError(f"{_KINDS}; got {emotion!r:.80}")
    return value.float() if value.ndim else value


def check_strength(strength: float) -> None:
    """Raise a ValueError where an expression's strength is not a number in [0, 2]."""
    if not isinstance(strength, Real) or not 0 <= strength <= 2:
        raise ValueError(f"emotion_strength must lie in 0..2, 1 the full expression; got {strength!r}")


def learnt_classes(net: ConfigMixin) -> Tensor:
    """Return the (8,) bool classes that a network's data had; one that does not say has seen neutral faces alone."""
    names = net.config.get("trained_on") or ["neutral"]
    return torch.tensor([name in names for name in EMOTIONS])


def leave_to(net: ConfigMixin, shown: Tensor, strength: float = 1.0) -> Tensor:
    """Return what a network is told of (..., 8) mixtures: the classes it has learnt, the rest as neutral.

    A network that never saw a neutral face gets the rest in equal parts of what it has seen: no embedding is used that
    training has not made.

    Args:
        net: a landmark net or a renderer, whose configuration's ``trained_on`` names its classes.
        shown: (..., 8) probabilities.
        strength: below 1 moves them towards neutral; a class cannot be given more than once.
    """
    learnt = learnt_classes(net).to(shown)
    told = torch.lerp(NEUTRAL.to(shown), shown, min(strength, 1.0)) * learnt
    rest = 1 - told.sum(-1, keepdim=True)
    home = NEUTRAL.to(shown) if learnt @ NEUTRAL.to(shown) else learnt / learnt.sum()
    return told + rest * home


def left_by(net: ConfigMixin, shown: Tensor) -> Tensor:
    """Return the (..., 8) weights of the expressions that a landmark net has not learnt, neutral's being 0."""
    return shown * ~learnt_classes(net) * (1 - NEUTRAL).to(shown)
