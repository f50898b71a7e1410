"""What a landmark net's lips do for people it was not trained on: place, liveliness, and whether p, b, m close.

    python examples/measure_strangers.py --root CACHE_OF_GRID_OTHER --align ALIGNMENTS [--sync LAST.ckpt]
    python examples/measure_strangers.py --root CACHE --align ALIGNMENTS --part test     # its own speaker

Rows: the truth; the first frame held (no motion); the net as for its own speaker; as the pipeline drives anyone's
portrait; and the truth's lips under the head motion of another person's clip, the best that a drawn head can be
expected to reach. Whole clips, the first frame is the reference and not counted in distances (px256), gate on, no
drawn head.

Closed at p, b, m: how often the inner lips come within 0.05 face sizes of each other (root mean square distance of the
landmarks from their mean) within three frames of where GRID's alignment begins bin, blue, by, b, p, place, please, or
ends m. Beside it stands the same for the other words, of which many begin after a closed mouth.
"""

from __future__ import annotations

import argparse
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
from talkhead.nets.landmark import LandmarkNet
from talkhead.pipeline.stages import ANYONE
from talkhead.speaker.folder import BUNDLED

NEUTRAL = emotion_probabilities("neutral")
CLOSED_FIRST, CLOSED_LAST = ("bin", "blue", "by", "b", "p", "place", "please"), ("m",)
REACH, TOUCHING, UNITS = 3, 0.05, 1000
COLUMNS = (
    *("M-LD", "F-LD", "M-LD centred", "F-LD centred", "opening", "lag", "variance", "lip dynamics", "silent lips"),
    *("loudness", "confidence", "closed at p, b, m", "at other words"),
)

Track = Callable[[Clip], Tensor]


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
    """Return one clip's values; without a truth's share where it is the truth itself."""
    true, unit = clip.landmarks, {"unit": "px256", "size": size}
    assert true is not None
    made, real = track[1:], true[1:]
    opening = metrics.opening_correlation(made, real)
    silent = metrics.silences(clip.audio, len(true), 25.0)
    pairs = [(region, center) for center in ("none", "mean") for region in ("mouth", "face")]
    distances: list[Any] = [metrics.landmark_distance(made, real, r, center=c, **unit).item() for r, c in pairs]  # type: ignore[arg-type]
    sound = clip.audio[len(clip.audio) // len(true) :]
    return dict(
        zip(
            COLUMNS,
            [
                *distances,
                opening.value,
                float(opening.lag) if opening.value == opening.value else float("nan"),
                float(metrics.opening_variance_ratio(made, real)),
                *(metrics.lip_dynamics(made, size).item(), 100 * metrics.silent_lips(track, silent).item()),
                metrics.audio_mouth_sync(made, sound).value,
                expert.judge(track, clip.audio).confidence if expert else float("nan"),
            ],
            strict=False,
        )
    )


def row(name: str, make: Track, clips: list[Clip], told: list[list[tuple[int, bool]]], size: int, expert: Any) -> str:
    """Return a line of the table: means over clips, the lag's median, and shares of words."""
    found: list[dict[str, float]] = []
    closed: dict[bool, list[float]] = {True: [], False: []}
    for clip, words in zip(clips, told, strict=True):
        track = make(clip)
        found.append(measure(track, clip, size, expert))
        for must, values in closures(track, clip.reference_landmarks, words).items():  # type: ignore[arg-type]
            closed[must] += values
    cells = []
    for column in COLUMNS[:-2]:
        known = [value for one in found if (value := one[column]) == value]
        middle = statistics.median if column == "lag" else statistics.fmean
        cells.append(f"{middle(known):.3f}" if known else "-")
    cells += [f"{statistics.fmean(closed[must]):.2f} of {len(closed[must])}" for must in (True, False)]
    return f"| {name} | {' | '.join(cells)} |"


def ours(net: LandmarkNet, clip: Clip, **how: float) -> Tensor:
    """Return the net's (T, 68, 2) px, blind to the portrait, no head drawn."""
    made = net.generate(clip.audio, clip.reference_landmarks, NEUTRAL, idle=0, **how)  # type: ignore[arg-type]
    return made[: len(clip.landmarks)]  # type: ignore[arg-type]


def borrowed_heads(clips: list[Clip], whose: list[str]) -> Track:
    """Return the truth's lips under the head motion of the next clip of somebody else."""
    heads = [read_head(clip.landmarks, clip.reference_landmarks) for clip in clips]  # type: ignore[arg-type]

    def make(clip: Clip) -> Tensor:
        here = next(number for number, other in enumerate(clips) if other is clip)
        order = [*range(here + 1, len(clips)), *range(here)]
        other = next((n for n in order if whose[n] != whose[here]), order[0])
        rest: Any = clip.reference_landmarks
        return move_head(still_head(clip.landmarks, rest), rest, heads[other])  # type: ignore[arg-type]

    return make


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", type=Path, help="folder of a saved net; default: the bundled speaker's")
    parser.add_argument("--root", type=Path, required=True, help="cache folder of `talkhead preprocess`, 25 frames/s")
    parser.add_argument("--align", type=Path, required=True, help="folder of GRID's .align files")
    parser.add_argument("--part", default="all", help="train, val, test or all (%(default)s)")
    parser.add_argument("--speakers", nargs="+", help="only their clips, such as those that a net was not taught on")
    parser.add_argument("--sync", type=Path, help="checkpoint of `talkhead fit --config sync`, for the confidence")
    args = parser.parse_args()
    net = LandmarkNet.from_pretrained(args.net or BUNDLED / "landmark").eval()
    data = MEADDataModule(args.root, modality="landmarks", num_frames=75, reference="first", split="clip")
    parts = ("train", "val", "test") if args.part == "all" else (args.part,)
    names = sorted(name for part in parts for name in data.names(part))
    names = [name for name in names if not args.speakers or data.entries[name]["identity"] in args.speakers]
    clips = list(ClipDataset(args.root, names, modality="landmarks", reference="first"))
    entries = [data.entries[name] for name in names]
    told = [moments(args.align / f"{entry['sentence']}.align") for entry in entries]
    whose, size = [entry["identity"] for entry in entries], entries[0]["size"]
    rows: dict[str, Track] = {
        "truth": lambda clip: clip.landmarks,  # type: ignore[dict-item,return-value]
        "no motion": lambda clip: clip.reference_landmarks.expand_as(clip.landmarks),  # type: ignore[union-attr,arg-type]
        "as for its own speaker": partial(ours, net),
        "as for anyone": partial(ours, net, **ANYONE),
        "as for anyone, without `closing`": partial(ours, net, **{**ANYONE, "closing": 0.0}),
        "true lips, another's head": borrowed_heads(clips, whose),
    }
    print(f"{len(clips)} clips of {len(set(whose))} speakers; silent lips in eye distances / 100; {ANYONE}")
    print(f"| {args.part} | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|", sep="\n")
    expert = load_sync(args.sync)
    for name, make in rows.items():
        print(row(name, make, clips, told, size, expert), flush=True)


if __name__ == "__main__":
    main()
