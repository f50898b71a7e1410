"""Measure a landmark net beside rows that do nothing: distances, the mouth's opening, the head.

    python examples/measure_landmarks.py --net LAST.ckpt --root CACHE                    # the 24 test clips
    python examples/measure_landmarks.py --net LAST.ckpt --root CACHE --split sentence
    python examples/measure_landmarks.py --net LAST.ckpt --root CACHE --silence --length

Whole clips, the first frame is the reference, `size=` of the cache where the portrait is shown. Distances in px256;
`opening`: mean over clips of the correlation of the mouth's opening with the true one; `lag`: that of all clips pooled,
in frames; `variance`: of the opening over the true one, each the mean over clips; `head`: the same of the nose's place.

`--silence` puts two seconds of it into the middle of the first eight clips; `--length` times one and ten minutes.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import torch
from torch import Tensor

from talkhead.data.clip import SAMPLE_RATE, Clip, emotion_probabilities
from talkhead.data.datamodule import MEADDataModule
from talkhead.face.mouth_gate import close_mouth
from talkhead.face.points import NOSE
from talkhead.metrics import landmark_distance, mouth_opening, opening_correlation
from talkhead.nets.landmark import LandmarkNet
from talkhead.speaker.trained import load_landmark

NEUTRAL = emotion_probabilities("neutral")


def best_lag(predicted: Tensor, true: Tensor, reach: int = 5) -> int:
    """Return the lag in frames at which the (N, T) openings of all clips together correlate best."""
    length = true.shape[1] - 2 * reach
    middle = true[:, reach : reach + length].flatten()

    def correlation(lag: int) -> float:
        moved = predicted[:, reach + lag : reach + lag + length].flatten()
        return torch.corrcoef(torch.stack([moved, middle]))[0, 1].nan_to_num(-1.0).item()

    return max(range(-reach, reach + 1), key=correlation)


def row(name: str, predicted: Tensor, true: Tensor, size: int) -> str:
    """Return a line of the table for (N, T, 68, 2) px."""
    distances = [
        landmark_distance(predicted, true, region, center=center, unit="px256", size=size).item()
        for center in ("none", "mean")
        for region in ("mouth", "face")
    ]
    made, real = mouth_opening(predicted), mouth_opening(true)
    correlations = [opening_correlation(p, t).value for p, t in zip(predicted, true, strict=True)]
    opening = sum(correlations) / len(correlations)
    variance = made.var(1).mean() / real.var(1).mean()
    nose = [points[:, :, NOSE].mean(2).var(1).mean() for points in (predicted, true)]
    cells = [f"{d:.2f}" for d in distances]
    cells += ["-", "-"] if opening != opening else [f"{opening:.3f}", str(best_lag(made, real))]  # NaN: no motion
    cells += [f"{variance:.2f}", f"{nose[0] / nose[1]:.2f}"]
    return f"| {name} | {' | '.join(cells)} |"


@torch.no_grad()
def answer(net: LandmarkNet, clips: list[Clip], size: int | None) -> Tensor:
    """Return the net's (N, T, 68, 2) px."""
    made = []
    for clip in clips:
        audio, reference_landmarks = clip.audio[None], clip.reference_landmarks[None]
        made.append(net(audio, reference_landmarks, NEUTRAL[None], len(clip.landmarks), size=size))
    return torch.cat(made)


def measure_silence(net: LandmarkNet, clips: list[Clip]) -> None:
    """Print how far the mouth is from rest in inserted silence, and the largest steps at its two ends."""
    middle = 3 * SAMPLE_RATE // 2
    for clip in clips[:8]:
        sound = torch.cat([clip.audio[:middle], torch.zeros(2 * SAMPLE_RATE), clip.audio[middle:]])
        made = net.generate(sound, clip.reference_landmarks, NEUTRAL, idle=0)
        opening, rest = mouth_opening(made), mouth_opening(close_mouth(clip.reference_landmarks))
        away = (opening[46:79] - rest).abs().max() / rest
        steps = (made[1:] - made[:-1]).norm(dim=-1).amax(-1)
        speech = torch.cat([steps[:34], steps[92:]]).max()
        into, out = steps[34:46].max() / speech, steps[79:92].max() / speech
        print(
            f"silence: {100 * away:.1f}% from rest; largest step in {into:.2f}, out {out:.2f} of the speech's largest"
        )


def measure_length(net: LandmarkNet, clips: list[Clip]) -> None:
    """Print the time and the peak memory of one and of ten minutes."""
    sound = torch.cat([c.audio for c in clips])
    for minutes in (1, 10):
        audio = sound.repeat(minutes * 60 * SAMPLE_RATE // len(sound) + 1)[: minutes * 60 * SAMPLE_RATE]
        wall, own = time.perf_counter(), time.process_time()
        frames = sum(len(part) for part in net.stream(audio, clips[0].reference_landmarks, NEUTRAL))
        wall, own = time.perf_counter() - wall, time.process_time() - own
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{minutes} min: {frames} frames in {wall:.1f} s ({own:.1f} s of processor), peak {peak:.0f} MiB")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", type=Path, required=True, help="checkpoint, or folder of a saved net")
    parser.add_argument("--root", type=Path, required=True, help="cache folder of `talkhead preprocess`")
    parser.add_argument("--split", default="clip", choices=["clip", "sentence", "identity"])
    parser.add_argument("--part", default="test", choices=["train", "val", "test"])
    parser.add_argument("--silence", action="store_true")
    parser.add_argument("--length", action="store_true")
    args = parser.parse_args()
    net = load_landmark(args.net).parts["net"].eval()
    data = MEADDataModule(args.root, modality="landmarks", num_frames=75, reference="first", split=args.split)
    clips = list(data.dataset(args.part, num_frames=75))
    size = int(data.entries[data.names(args.part)[0]]["size"])
    if args.length:  # first: peak memory is that of the whole process
        measure_length(net, clips)
    if args.silence:
        measure_silence(net, clips)
    if args.length or args.silence:
        return
    true = torch.stack([c.landmarks for c in clips])
    train = torch.stack([c.landmarks for c in data.dataset("train", num_frames=75)])
    print(f"{len(clips)} {args.part} clips, {len(train)} to train, split by {args.split}")
    print(
        "| | M-LD | F-LD | M-LD centred | F-LD centred | opening | lag | variance | head |", "|---" * 9 + "|", sep="\n"
    )
    print(row("no motion", true[:, :1].expand_as(true).contiguous(), true, size))
    print(row("the training set's mean motion", true[:, :1] + (train - train[:, :1]).mean(0), true, size))
    print(row("net, blind to the portrait", answer(net, clips, None), true, size))
    print(row("net, shown the portrait", answer(net, clips, size), true, size))
    for name, shown in (("blind", None), ("shown", size)):
        made = [net.generate(c.audio, c.reference_landmarks, NEUTRAL, idle=0, size=shown) for c in clips]
        print(row(f"`generate(idle=0)`, gate on, {name}", torch.stack(made), true, size))


if __name__ == "__main__":
    main()
