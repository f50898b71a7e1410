"""Measure dubbing on clips of one person, each with its own sound and with the next one's.

    python examples/measure_dub.py --clips GRID/s1 --names bbir6n bgaa6n --output results --detector dlib

With its own sound the clip itself is the truth; the row of the untouched video is perfect there, and shows what the
other sound costs. With the next clip's sound the truth is how that clip's mouth opens. The seam is the mean step from
each pixel of the region's edge to its neighbour outside, over the same step in the untouched video: 1 shows nothing.
With --sync (a checkpoint of `talkhead fit --config sync`) a judge that saw real speech says how well lips and new sound
belong together; beside it stand the untouched video under the new sound, and under its own.
"""

import argparse
import json
from pathlib import Path

import torch

import talkhead
from talkhead.dubbing.dub import Dubbing, dubbed_frames, plan_dubbing
from talkhead.dubbing.face_track import track_face
from talkhead.evaluate.videos import load_sync
from talkhead.media.read import read_audio, read_video
from talkhead.metrics import landmark_distance, opening_correlation, opening_variance_ratio
from talkhead.metrics.pictures import mouth_box, psnr
from talkhead.pipeline import TalkingHeadPipeline
from talkhead.tracking.track import load_detector


def main() -> None:
    """Print one row per protocol, and write all numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", required=True, type=Path, help="folder of videos")
    parser.add_argument("--names", required=True, nargs="+", help="their names, without suffix: held out in training")
    parser.add_argument("--output", required=True, type=Path, help="folder for dub.json")
    parser.add_argument("--speaker", default="bundled")
    parser.add_argument("--detector", default="dlib")
    parser.add_argument("--steps", type=int, default=1, help="network calls per frame")
    parser.add_argument("--sync", help="judge of synchrony; left out: none")
    args = parser.parse_args()
    expert = load_sync(args.sync)
    pipe, detector = TalkingHeadPipeline.from_pretrained(args.speaker), load_detector(args.detector)
    files = [next(args.clips.glob(f"{name}.*")) for name in args.names]
    rows = []
    for video, other in zip(files, files[1:] + files[:1], strict=True):
        truth = track_face(iter(read_video(other)[0]), detector).landmarks
        for sound in (video, other):
            plan = plan_dubbing(pipe, video, sound, emotion="neutral", detector=detector)
            frames = torch.stack(list(dubbed_frames(pipe, plan, num_inference_steps=args.steps))).permute(0, 3, 1, 2)
            again = track_face(iter(frames), detector).landmarks
            row = {"video": video.stem, "sound": sound.stem} | measure(plan, frames, again)
            if sound is other:
                row |= against_the_other(plan.old, again, truth)
            if expert is not None:
                own = torch.as_tensor(read_audio(video))
                told = {"": (again, plan.audio), "untouched: ": (plan.old, plan.audio), "truth: ": (plan.old, own)}
                for whose, (points, heard) in told.items():
                    judged = expert.judge(points, heard, float(plan.fps))
                    row |= {f"{whose}sync match": judged.match, f"{whose}sync confidence": judged.confidence}
            rows.append(row)
            print(row, flush=True)
    summary = {which: average([r for r in rows if (r["sound"] == r["video"]) == own]) for which, own in KINDS.items()}
    args.output.mkdir(parents=True, exist_ok=True)
    about = {"versions": {"talkhead": talkhead.__version__, "torch": torch.__version__}, "steps": args.steps, "seed": 0}
    (args.output / "dub.json").write_text(json.dumps(about | {"mean": summary, "clips": rows}, indent=1) + "\n")
    print(json.dumps(summary, indent=1))


KINDS = {"own sound": True, "another clip's sound": False}


def measure(plan: Dubbing, frames: torch.Tensor, again: torch.Tensor) -> dict[str, float]:
    """Return what dubbing changed in one clip, and how near its mouth is to the untouched one."""
    source, _ = read_video(plan.video)
    old = plan.old
    side = 1.5 * (old[0].amax(0) - old[0].amin(0)).max().item()
    box = mouth_box(old, (frames.shape[2], frames.shape[3]))
    touched = (frames != source).any(1)
    return {
        "mouth PSNR": psnr(frames, source, box).item(),
        "M-LD": landmark_distance(again, old, "mouth", unit="px").item() * 256 / side,
        "M-LD, eyes and brows": (again - old)[:, 17:48].norm(dim=-1).mean().item() * 256 / side,
        "changed pixels": touched.float().mean().item(),
        "seam": seam(frames.float().mean(1), source.float().mean(1), touched),
    }


def seam(frames: torch.Tensor, source: torch.Tensor, touched: torch.Tensor) -> float:
    """Return the mean step over the region's edge, relative to the untouched video's."""
    edge = touched[:, :, 1:] ^ touched[:, :, :-1]
    steps = [(pictures[:, :, 1:] - pictures[:, :, :-1]).abs()[edge].mean() for pictures in (frames, source)]
    return (steps[0] / steps[1]).item()


def against_the_other(old: torch.Tensor, new: torch.Tensor, truth: torch.Tensor) -> dict[str, float]:
    """Return how the mouth follows the other sound: its opening against the other clip's."""
    count = min(len(old), len(new), len(truth))
    old, new, truth = old[:count], new[:count], truth[:count]
    found = opening_correlation(new, truth)
    return {
        "opening correlation": found.value,
        "lag": float(found.lag),
        "opening variance": opening_variance_ratio(new, truth),
        "untouched: opening correlation": opening_correlation(old, truth).value,
    }


def average(rows: list[dict]) -> dict[str, float]:
    """Return the mean of each number."""
    names = [name for name, value in rows[0].items() if isinstance(value, float)]
    return {name: sum(row[name] for row in rows) / len(rows) for name in names}


if __name__ == "__main__":
    main()
