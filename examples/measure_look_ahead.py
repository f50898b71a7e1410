"""Measure what a live face loses by hearing little of what comes: look-aheads beside the whole recording.

    python examples/measure_look_ahead.py --root CACHE [--limit 10] [--look-ahead 0 0.08 0.12 0.16 0.32]

Held-out clips, pushed in pieces of 20 ms, from their first frame; head and lids at rest. The mouth's opening is
correlated with the truth's; the distance of the mouth is centred, in px of a 256-px frame.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from talkhead.data.clip import SAMPLE_RATE, Clip
from talkhead.data.datamodule import MEADDataModule
from talkhead.data.dataset import ClipDataset
from talkhead.metrics import landmark_distance, opening_correlation
from talkhead.pipeline import TalkingHeadPipeline

PIECE = SAMPLE_RATE // 50


def main() -> None:
    """Print a line for each look-ahead."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True)
    parser.add_argument("--speaker", default="bundled")
    parser.add_argument("--limit", type=int, default=10, help="clips (%(default)s)")
    parser.add_argument("--look-ahead", type=float, nargs="+", default=[0, 0.08, 0.12, 0.16, 0.32], help="s")
    options = parser.parse_args()
    pipeline = TalkingHeadPipeline.from_pretrained(options.speaker, device="cpu")
    names = sorted(MEADDataModule(options.root).names("test"))[: options.limit]
    dataset = ClipDataset(options.root, names, reference="first")
    clips = [dataset[place] for place in range(len(names))]
    print(f"| look-ahead, {len(clips)} clips | opening correlation | M-LD centred |\n|---|---|---|")
    for ahead in options.look_ahead:
        print(row(f"{1000 * ahead:.0f} ms", [live(pipeline, clip, ahead) for clip in clips], clips), flush=True)
    print(row("the whole recording", [offline(pipeline, clip) for clip in clips], clips))


def live(pipeline: TalkingHeadPipeline, clip: Clip, look_ahead: float) -> Tensor:
    """Return the landmarks of a clip whose sound comes in pieces."""
    assert clip.frames is not None and clip.landmarks is not None
    face = pipeline.live(
        clip.frames[0], reference_landmarks=clip.landmarks[0], look_ahead=look_ahead, idle=0, frame="full", fps=25
    )
    return torch.cat([*(face.push(piece).landmarks for piece in clip.audio.split(PIECE)), face.flush().landmarks])


def offline(pipeline: TalkingHeadPipeline, clip: Clip) -> Tensor:
    """Return the landmarks of a clip that is there from the start."""
    assert clip.frames is not None and clip.landmarks is not None
    made = pipeline(
        clip.frames[0], clip.audio, reference_landmarks=clip.landmarks[0], emotion="neutral", idle=0, frame="full",
        fps=25,
    )  # fmt: skip
    return made.landmarks


def row(name: str, made: list[Tensor], clips: list[Clip]) -> str:
    """Return a line of the table."""
    correlation = distance = 0.0
    for track, clip in zip(made, clips, strict=True):
        assert clip.frames is not None and clip.landmarks is not None
        count = min(len(track), len(clip.landmarks))
        track, truth = track[:count], clip.landmarks[:count]
        size = clip.frames.shape[-1]
        correlation += opening_correlation(track, truth).value / len(clips)
        distance += landmark_distance(track, truth, "mouth", center="mean", unit="px256", size=size).item() / len(clips)
    return f"| {name} | {correlation:.3f} | {distance:.2f} |"


if __name__ == "__main__":
    main()
