"""What a landmark net's lips, and a drawn head, do for people they were not trained on, beside the truth.

    python examples/measure_strangers.py --root CACHE_OF_GRID_OTHER --align ALIGNMENTS [--sync LAST.ckpt]
    python examples/measure_strangers.py ... --net 'taught/{}' --head 'heads/{}'     # of each speaker those without him
    python examples/measure_strangers.py --root CACHE --align ALIGNMENTS --part test     # its own speaker

Columns: the truth; the first frame held (no motion); the net as for its own speaker; as the pipeline drives anyone's
portrait, without and with a drawn head (the mean of `--seeds` draws); and the truth's lips under the head motion of
another person's clip, the best that a drawn head can be expected to reach. Whole clips, the first frame is the
reference and not counted in distances (px256), gate on. Lines: means over clips, the lag's median. Variance: of the
opening over the true one, the mean of the clips' ratios, and the ratio of the means. Closeness: 1 - |m - truth| / truth
of the means. Definitions: docs/metrics.md.

Closed at p, b, m: how often the inner lips come within 0.05 face sizes of each other (root mean square distance of the
landmarks from their mean) within three frames of where GRID's alignment begins bin, blue, by, b, p, place, please, or
ends m. Beside it stands the same for the other words, of which many begin after a closed mouth.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from talkhead import metrics
from talkhead.data.clip import Clip, emotion_probabilities
from talkhead.data.datamodule import MEADDataModule
from talkhead.data.dataset import ClipDataset
from talkhead.evaluate.videos import load_sync
from talkhead.face.frame import face_size
from talkhead.face.head_state import move_head, read_head, still_head
from talkhead.heads.drawn_head import DrawnHead, draw_head
from talkhead.pipeline.stages import ANYONE
from talkhead.speaker.folder import BUNDLED
from talkhead.speaker.trained import Trained, load_head, load_landmark

NEUTRAL = emotion_probabilities("neutral")
CLOSED_FIRST, CLOSED_LAST = ("bin", "blue", "by", "b", "p", "place", "please"), ("m",)
REACH, TOUCHING, UNITS, FPS = 3, 0.05, 1000, 25.0
ALIVE = (
    *("lip dynamics (px256)", "silent lips (e / 100)", "brow dynamics (e / 100 per frame)", "roll (degrees)"),
    *("head shift (e / 100)", "blinks per minute", "a blink's duration (s)"),
)
"""Measures that need no truth, and are as good as they are close to it; e: the distance between the eyes."""

Track = Callable[[int], Tensor]
"""(T, 68, 2) px for the clip of that number."""


def moments(path: Path) -> list[tuple[int, bool]]:
    """Read a GRID alignment: the frame of each word's beginning (of m: its end), and whether lips must meet there."""
    found = []
    for line in filter(str.strip, path.read_text().splitlines()):
        first, last, word = line.split()
        if word not in ("sil", "sp"):
            place = last if word in CLOSED_LAST else first
            found.append((round(int(place) / UNITS), word in (*CLOSED_FIRST, *CLOSED_LAST)))
    return found


def closures(track: Tensor, rest: Tensor, told: list[tuple[int, bool]]) -> dict[bool, list[float]]:
    """Return for lips that must meet, and for the others, whether they do (1 or 0)."""
    opening = metrics.mouth_opening(track) / face_size(rest)
    found: dict[bool, list[float]] = {True: [], False: []}
    for place, must in told:
        near = opening[max(0, place - REACH) : place + REACH + 1]
        found[must].append(float(near.min() <= TOUCHING))
    return found


def measure(track: Tensor, clip: Clip, size: int, expert: Any) -> dict[str, float]:
    """Return one clip's values."""
    true, unit = clip.landmarks, {"unit": "px256", "size": size}
    assert true is not None
    made, real = track[1:], true[1:]
    values = {
        f"{name}{'' if center == 'none' else ', centred'}": metrics.landmark_distance(
            made,
            real,
            region,  # type: ignore[arg-type]
            center,  # type: ignore[arg-type]
            **unit,  # type: ignore[arg-type]
        ).item()
        for center in ("none", "mean")
        for name, region in (("M-LD", "mouth"), ("F-LD", "face"))
    }
    opening = metrics.opening_correlation(made, real)
    values["opening: correlation"] = opening.value
    values["best lag (frames)"] = float(opening.lag) if opening.value == opening.value else math.nan
    values["variance, mean of ratios"] = metrics.opening_variance_ratio(made, real)
    values[_POOLED] = metrics.mouth_opening(made).var().item()
    values["opening with loudness"] = metrics.audio_mouth_sync(made, clip.audio[len(clip.audio) // len(true) :]).value
    values["confidence of synchrony"] = expert.judge(track, clip.audio).confidence if expert else math.nan
    head, blinks = metrics.head_motion(track), metrics.find_blinks(track, FPS)
    silent = metrics.silent_lips(track, metrics.silences(clip.audio, len(true), FPS))
    lively = (metrics.lip_dynamics(track, size), 100 * silent, 100 * metrics.brow_dynamics(track), head["roll"])
    return values | dict(zip(ALIVE, (*map(float, lively), 100 * float(head["shift"]), *blinks), strict=True))


def column(tracks: list[Track], clips: list[Clip], told: list[list[tuple[int, bool]]], size: int, expert: Any) -> Any:
    """Return a column of the table: means over clips and draws, the lag's median, and shares of words."""
    found: list[dict[str, float]] = []
    closed: dict[bool, list[float]] = {True: [], False: []}
    for make in tracks:
        for number, (clip, words) in enumerate(zip(clips, told, strict=True)):
            track = make(number)
            found.append(measure(track, clip, size, expert))
            for must, values in closures(track, clip.reference_landmarks, words).items():  # type: ignore[arg-type]
                closed[must] += values
    cells: dict[str, float] = {}
    for name in found[0]:
        known = [value for one in found if (value := one[name]) == value]
        middle = statistics.median if "lag" in name else statistics.fmean
        cells[name] = middle(known) if known else math.nan
    return cells | {
        "closed at p, b, m": statistics.fmean(closed[True]),
        "at other words": statistics.fmean(closed[False]),
    }


def markdown(columns: dict[str, dict[str, float]]) -> str:
    """Return the table, each column's closeness to the first beneath its measures."""
    truth, names = next(iter(columns.values())), list(columns)
    lines = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for line in truth:
        scale = truth[line] if line == _POOLED else 1.0
        lines.append(f"| {line} | {' | '.join(_number(columns[name][line] / scale) for name in names)} |")
    for line in ALIVE:
        near = ["", *(_number(metrics.closeness(columns[name][line], truth[line])) for name in names[1:])]
        lines.append(f"| {line.split(' (')[0]}, closeness | {' | '.join(near)} |")
    return "\n".join(lines)


_POOLED = "variance, ratio of means"


def _number(value: float) -> str:
    return "-" if value != value else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def borrowed_heads(clips: list[Clip], whose: list[str]) -> Track:
    """Return the truth's lips under the head motion of the next clip of somebody else."""
    heads = [read_head(clip.landmarks, clip.reference_landmarks) for clip in clips]  # type: ignore[arg-type]

    def make(number: int) -> Tensor:
        order = [*range(number + 1, len(clips)), *range(number)]
        other = next((n for n in order if whose[n] != whose[number]), order[0])
        rest, track = clips[number].reference_landmarks, clips[number].landmarks
        return move_head(still_head(track, rest), rest, heads[other])  # type: ignore[arg-type]

    return make


def load_each(load: Callable[[str], Trained], path: str, whose: list[str]) -> list[Any]:
    """Load a net for every clip: the same, or each speaker's own where the path has a {}."""
    loaded = {name: load(path.format(name)).parts["net"].eval() for name in set(whose)}
    return [loaded[name] for name in whose]


def made_tracks(clips: list[Clip], whose: list[str], net: str, head: str, seeds: int) -> dict[str, list[Track]]:
    """Return each column's tracks; the drawn head's are one for each seed."""
    nets, heads = load_each(load_landmark, net, whose), load_each(load_head, head, whose)

    def ours(number: int, **how: float) -> Tensor:
        clip = clips[number]
        made = nets[number].generate(clip.audio, clip.reference_landmarks, NEUTRAL, idle=0, **how)
        return made[: len(clip.landmarks)]  # type: ignore[arg-type,no-any-return]

    anyone = [ours(number, **ANYONE) for number in range(len(clips))]

    def drawn(seed: int, number: int) -> Tensor:
        clip: Any = clips[number]
        lay = DrawnHead(heads[number], clip.reference_landmarks, NEUTRAL, FPS, seed=1000 * number + seed)
        return next(draw_head(lay, iter([anyone[number]]), clip.audio))

    return {
        "truth": [lambda n: clips[n].landmarks],  # type: ignore[list-item,return-value]
        "no motion": [lambda n: clips[n].reference_landmarks.expand_as(clips[n].landmarks)],  # type: ignore[union-attr,arg-type]
        "as for its own speaker": [ours],
        "as for anyone": [anyone.__getitem__],
        "and the head drawn": [partial(drawn, seed) for seed in range(seeds)],
        "true lips, another's head": [borrowed_heads(clips, whose)],
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--net", default=str(BUNDLED / "landmark"), help="folder of a saved net, or checkpoint; default: the bundled"
    )
    parser.add_argument("--head", default=str(BUNDLED / "head"), help="the same of a head net; default: the bundled")
    parser.add_argument("--root", type=Path, required=True, help="cache folder of `talkhead preprocess`, 25 frames/s")
    parser.add_argument("--align", type=Path, required=True, help="folder of GRID's .align files")
    parser.add_argument("--part", default="all", help="train, val, test or all (%(default)s)")
    parser.add_argument("--speakers", nargs="+", help="only their clips, such as those that a net was not taught on")
    parser.add_argument("--seeds", type=int, default=5, help="of the drawn head (%(default)s)")
    parser.add_argument("--sync", type=Path, help="checkpoint of `talkhead fit --config sync`, for the confidence")
    args = parser.parse_args()
    data = MEADDataModule(args.root, modality="landmarks", num_frames=75, reference="first", split="clip")
    parts = ("train", "val", "test") if args.part == "all" else (args.part,)
    names = sorted(name for part in parts for name in data.names(part))
    names = [name for name in names if not args.speakers or data.entries[name]["identity"] in args.speakers]
    clips = list(ClipDataset(args.root, names, modality="landmarks", reference="first"))
    entries = [data.entries[name] for name in names]
    told = [moments(args.align / f"{entry['sentence']}.align") for entry in entries]
    whose, size = [entry["identity"] for entry in entries], entries[0]["size"]
    words = sum(must for clip in told for _, must in clip), sum(map(len, told))
    print(f"{len(clips)} clips of {len(set(whose))} speakers; {words[0]} of {words[1]} words with p, b or m; {ANYONE}")
    expert = load_sync(args.sync)
    columns = made_tracks(clips, whose, args.net, args.head, args.seeds)
    print(markdown({name: column(tracks, clips, told, size, expert) for name, tracks in columns.items()}))


if __name__ == "__main__":
    main()
