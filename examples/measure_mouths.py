"""Measure what drawing an opened mouth's inside gives, against the truth.

    python examples/measure_mouths.py GRID --stills LONDON [--part all] [--judges JUDGES]

GRID is a cache of clips; each clip's first frame is the portrait, from it the true landmarks of the others are painted
in one network call. LONDON is a cache of stills (`preprocess --layout stills`, any size): the neutral picture is bent
to the smile's landmarks. Of both those frames count whose mouth is open by 0.04 eye distances more than the
portrait's; of GRID every second of them. Rows: the mouth as painted or bent, the mouth drawn (`--teeth`), and of the
clips what the detector finds on the truth itself. JUDGES is a folder with a `judges.py` that has a function
`perceptual_distance` of (N, 3, H, W) uint8 pictures; what is absent is left out.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from talkhead import metrics
from talkhead.data.clip import Clip, emotion_probabilities
from talkhead.data.datamodule import MEADDataModule
from talkhead.data.dataset import ClipDataset
from talkhead.face.crop import Crop, crop_frames, to_crop
from talkhead.face.mouth_bank import mouth_shape
from talkhead.face.warp import thin_plate_spline_warp
from talkhead.finishing.drawn_mouth import DrawnMouth
from talkhead.pipeline import TalkingHeadPipeline
from talkhead.pipeline.windows import render_windows
from talkhead.tracking.track import load_detector

WIDER = 0.04  # eye distances
SHOWN_AT = 128  # px: side of the mouths that are judged


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", help="a cache of clips")
    parser.add_argument("--stills", help="a cache of neutral and smiling stills")
    parser.add_argument("--speaker", default="bundled", help="(%(default)s)")
    parser.add_argument("--part", default="test", choices=["test", "all"], help="of the clips (%(default)s)")
    parser.add_argument("--judges", type=Path, help="folder of judges.py")
    args = parser.parse_args()
    distance = load_distance(args.judges) if args.judges else None
    pipeline = TalkingHeadPipeline.from_pretrained(args.speaker, device="cpu")
    data = MEADDataModule(args.clips)
    parts = ["train", "val", "test"] if args.part == "all" else ["test"]
    clips = ClipDataset(args.clips, sorted(name for part in parts for name in data.names(part)), reference="first")
    print_rows("clips", [rows_of(pipeline, tracked(clip), distance, True) for clip in clips])
    if args.stills:
        pictures = sorted((Path(args.stills) / "clips").glob("*.safetensors"))
        print_rows("smiles", [rows_of(pipeline, pair_of(path), distance, False) for path in pictures])


def tracked(clip: Clip) -> tuple[Tensor, Tensor]:
    """Return a clip's frames and their landmarks."""
    assert clip.frames is not None and clip.landmarks is not None
    return clip.frames, clip.landmarks


def pair_of(path: Path) -> tuple[Tensor, Tensor]:
    """Return a person's pictures and their landmarks; a dataset would give one as the window, the other apart."""
    tensors = load_file(path)
    return tensors["frames"], tensors["landmarks"].float()


def rows_of(
    pipeline: TalkingHeadPipeline,
    clip: tuple[Tensor, Tensor],
    distance: Callable[[Tensor, Tensor], Tensor] | None,
    painted: bool,
) -> dict[str, dict[str, float]]:
    """Return each row's scores, means over the clip's open mouths; none where it has none."""
    frames, landmarks = clip
    portrait, points = frames[0], landmarks[0]
    opening = mouth_shape(landmarks)[:, 0]
    wide = (opening[1:] > opening[0] + WIDER).nonzero()[:: 2 if painted else 1, 0]
    if not len(wide):
        return {}
    truth, targets, later = frames[1:][wide], landmarks[1:][wide], landmarks[1:]
    size = pipeline.renderer.config.size
    whole = Crop(0.0, 0.0, float(portrait.shape[-1]))
    face, rest = crop_frames(portrait[None], whole, size)[0], to_crop(points, whole, size)
    if painted:
        neutral, all_landmarks = emotion_probabilities("neutral"), [later]
        windows = render_windows(
            pipeline.renderer, pipeline.scheduler, portrait, points, all_landmarks, neutral, num_inference_steps=1
        )
        frames = torch.cat(list(windows))[wide]
    else:
        moved = thin_plate_spline_warp(portrait[None].float(), points[None], targets[None])[0]
        frames = moved.round().clamp(0, 255).to(torch.uint8)
    drawn = DrawnMouth(face, rest[None])(frames, targets)
    ways = {"as painted" if painted else "as bent": frames, "drawn": drawn}
    return {name: scores_of(way, truth, targets, distance, painted) for name, way in ways.items()}


def scores_of(
    frames: Tensor,
    truth: Tensor,
    landmarks: Tensor,
    distance: Callable[[Tensor, Tensor], Tensor] | None,
    find: bool,
) -> dict[str, float]:
    """Compare mouths; ``find``: also where the detector finds their lips."""
    x0, y0, x1, y1 = metrics.mouth_box(landmarks, truth.shape[-1])
    ours, true = frames[..., y0:y1, x0:x1], truth[..., y0:y1, x0:x1]
    scores = {
        "mouth PSNR": metrics.psnr(ours, true).item(),
        "sharpness": (metrics.sharpness(ours).mean() / metrics.sharpness(true).mean()).item(),
    }
    if distance is not None:
        scores["perceptual"] = distance(enlarged(ours), enlarged(true)).mean().item()
    if find:
        scores |= found(frames, truth)
    return scores


def found(frames: Tensor, truth: Tensor) -> dict[str, float]:
    """Return M-LD of what the detector finds on both, and how far apart it finds the lips, over the truth's."""
    detector = load_detector("dlib")
    pairs = [(detector(a), detector(b)) for a, b in zip(frames, truth, strict=True)]
    both = [(a.landmarks, b.landmarks) for a, b in pairs if a is not None and b is not None]
    if not both:
        return {"M-LD": float("nan"), "opening": float("nan")}
    ours, true = (torch.stack(side) for side in zip(*both, strict=True))
    m_ld = metrics.landmark_distance(ours, true, "mouth", unit="px256", size=frames.shape[-1]).item()
    opening = [mouth_shape(side)[:, 0].mean().item() for side in (ours, true)]
    return {"M-LD": m_ld, "opening": opening[0] / opening[1]}


def enlarged(mouths: Tensor) -> Tensor:
    """Return the mouths at the size at which they are judged."""
    size = (SHOWN_AT, SHOWN_AT)
    large = F.interpolate(mouths.float(), size, mode="bicubic", align_corners=False)
    return large.round().clamp(0, 255).to(torch.uint8)


def load_distance(folder: Path) -> Callable[[Tensor, Tensor], Tensor] | None:
    """Return judges.py's perceptual distance, where there is one."""
    if not (folder / "judges.py").is_file():
        return None
    spec = importlib.util.spec_from_file_location("judges", folder / "judges.py")
    assert spec is not None and spec.loader is not None
    judges = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(judges)
    return judges.perceptual_distance


def print_rows(what: str, all_rows: list[dict[str, dict[str, float]]]) -> None:
    """Print the mean over all clips that have an open mouth."""
    all_rows = [rows for rows in all_rows if rows]
    if not all_rows:
        print(f"no open mouth in the {what}")
        return
    columns = list(next(iter(all_rows[0].values())))
    print(f"| {len(all_rows)} {what} | {' | '.join(columns)} |\n|---{'|---' * len(columns)}|")
    for name in all_rows[0]:
        means = [torch.tensor([rows[name][column] for rows in all_rows]).nanmean().item() for column in columns]
        print(f"| {name} | {' | '.join(f'{mean:.3f}' for mean in means)} |", flush=True)


if __name__ == "__main__":
    main()
