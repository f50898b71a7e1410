"""A synthetic MEAD: does the class path (Eq. 3) learn? One portrait, bent into eight emotions at three levels.

    bash examples/class_path.sh WORK       # files in MEAD's layout, the paper's three recipes on them, the exchange
    python examples/synthetic_mead.py confuse --cache TRAIN --test OTHERS --landmark L.ckpt ... --output FOLDER
    python examples/synthetic_mead.py small --portrait P.png --speech A.flac --output FOLDER # smaller, without files

`examples/rendered_mead.py` writes such clips as files in MEAD's layout. There they begin with a neutral face: a
portrait that wears the emotion already would leave the class nothing to say.

It is not MEAD and stands for nothing real: a picture is bent by a spline to landmarks that speak and wear the
expressions of `talkhead.face.expression`; each emotion also darkens places of its own (furrows, which landmarks do not
tell), and shifts the pitch of the voice by a ratio of its own. Levels 1, 2, 3 are strengths 0.5, 1, 1.5.

After training the class alone is exchanged: same sound, same landmarks. What changes is compared with what each class
has taught: the class whose own shape is nearest (of landmarks), whose own furrows are nearest (of pixels), counts in an
8 x 8 confusion. Chance is 12.5%; the ceiling is the same question asked of the true clips. Of a classifier the
confusion is what other voices are heard as.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer, seed_everything
from torch import Tensor
from torch.utils.data import DataLoader

from talkhead.data.clip import EMOTIONS, SAMPLE_RATE, Clip, emotion_probabilities
from talkhead.data.dataset import ClipDataset, collate
from talkhead.data.manifest import read_manifest
from talkhead.face.crop import crop_frames, face_crop, to_crop
from talkhead.face.expression import EMOTION_ACTIONS, expression
from talkhead.face.expressive_motion import expressive_motion
from talkhead.face.warp import thin_plate_spline_warp
from talkhead.media.read import read_audio, read_image
from talkhead.modules.emotion import EmotionClassifier
from talkhead.modules.landmark import LandmarkGenerator
from talkhead.modules.video import VideoDiffusion
from talkhead.nets.landmark import LandmarkNet
from talkhead.nets.renderer import Renderer
from talkhead.pipeline.windows import render_windows

FPS = 25
LEVELS = {1: 0.5, 2: 1.0, 3: 1.5}
PITCH = dict(zip(EMOTIONS, (0.80, 0.86, 0.92, 1.20, 1.14, 1.0, 0.74, 1.27), strict=True))
"""By how much each emotion's voice is higher: what the classifier can tell them by."""

FURROWS = {
    "angry": (21, 22), "contempt": (54,), "disgusted": (31, 35), "fear": (19, 24), "happy": (48, 54), "neutral": (),
    "sad": (57,), "surprised": (27,),
}  # fmt: skip
"""Points where each emotion darkens the skin."""


def spoken(face: Tensor, frames: int, seed: int, fps: int = FPS) -> Tensor:
    """Return (T, 68, 2) px of a face whose jaw opens and shuts at random, some four times a second."""
    generator = torch.Generator().manual_seed(seed)
    phases = 6.28 * torch.rand(3, generator=generator)
    time = torch.arange(frames)[:, None] / fps
    course = (6.28 * time * torch.tensor([2.1, 3.7, 4.6]) + phases).sin().mean(1).clamp_min(0)
    return face + 0.5 * course[:, None, None] * (expression(face, {"jawOpen": 1.0}) - face)


def worn(face: Tensor, motion: Tensor, emotion: str, strength: Tensor) -> Tensor:
    """Return the motion with an emotion on it, as strong as (T,) says."""
    offsets = expression(face, {**EMOTION_ACTIONS[emotion], "jawOpen": 0.0}) - face
    return expressive_motion(motion, face, strength[:, None, None] * offsets)


def darkened(frames: Tensor, landmarks: Tensor, emotion: str, strength: Tensor) -> Tensor:
    """Darken (T, 3, H, W) in [0, 1], as strongly as (T,) says, around the emotion's `FURROWS`.

    They are as wide as a fourteenth of the frame.
    """
    ys, xs = (torch.arange(side).float() for side in frames.shape[-2:])
    dark = torch.zeros(len(frames), 1, *frames.shape[-2:])
    for point in FURROWS[emotion]:
        x, y = landmarks[:, point, 0], landmarks[:, point, 1]
        away = (xs - x[:, None])[:, None].square() + (ys - y[:, None])[:, :, None].square()
        dark = torch.maximum(dark, torch.exp(-away / (2 * (frames.shape[-1] / 14) ** 2))[:, None])
    return frames * (1 - 0.4 * strength[:, None, None, None] * dark)


def make_clip(
    picture: Tensor,
    face: Tensor,
    speech: Tensor,
    emotion: str,
    level: int,
    frames: int,
    seed: int,
    fps: int = FPS,
    onset: int = 0,
) -> Clip:
    """Return one synthetic clip; its reference is the portrait.

    Args:
        picture: (3, H, W) uint8.
        face: (68, 2) px of it.
        speech: (S,) at 16 kHz, long enough; which part is spoken goes by ``seed``.
        emotion: a name of `EMOTIONS`.
        level: 1, 2 or 3.
        frames: T.
        seed: of the words.
        fps: frames per second.
        onset: frames from a neutral first one to the whole emotion; 0: it is there from the first on.
    """
    grown = (torch.arange(frames) / max(onset, 1)).clamp_max(1) if onset else torch.ones(frames)
    strength = grown * (LEVELS[level] if emotion != "neutral" else 0.0)
    motion = worn(face, spoken(face, frames, seed, fps), emotion, strength)
    bent = thin_plate_spline_warp(picture[None].float() / 255, face[None], motion[None])[0]
    painted = (darkened(bent, motion, emotion, strength) * 255).round().to(torch.uint8)
    samples = frames * SAMPLE_RATE // fps
    start = (seed * 4001) % max(1, len(speech) - 2 * samples)
    places = torch.arange(samples) * PITCH[emotion] + start
    audio = torch.lerp(speech[places.long()], speech[places.long() + 1], places - places.floor())
    return Clip(
        audio=audio,
        emotion=torch.tensor(EMOTIONS.index(emotion)),
        fps=torch.tensor(float(fps)),
        samples=torch.tensor(samples),
        frames=painted,
        landmarks=motion,
        reference=picture,
        reference_landmarks=face,
    )


def all_clips(picture: Tensor, face: Tensor, speech: Tensor, frames: int, each: int, first: int = 0) -> Iterator[tuple]:
    """Yield (emotion, level, number, clip): ``each`` of every emotion and level; neutral has level 1 alone."""
    for emotion in EMOTIONS:
        for level in (1,) if emotion == "neutral" else LEVELS:
            for number in range(first, first + each * (3 if emotion == "neutral" else 1)):
                seed = number * 101 + level * 11
                yield emotion, level, number, make_clip(picture, face, speech, emotion, level, frames, seed)


def read_face(portrait: Path, landmarks: Tensor | None, size: int) -> tuple[Tensor, Tensor]:
    """Return a portrait's face as (3, size, size) uint8 and its (68, 2) px landmarks."""
    from talkhead.tracking.track import load_detector

    picture = read_image(portrait)
    points = load_detector("dlib")(picture).landmarks if landmarks is None else landmarks
    crop = face_crop(points, 1.5)
    return crop_frames(picture, crop, size), to_crop(points, crop, size)


def fit(module: Any, clips: list[Clip], batch: int, steps: int) -> Any:
    """Train a module for a number of steps and return it."""
    loader = DataLoader(clips, batch, shuffle=True, collate_fn=collate, drop_last=True)  # type: ignore[arg-type]
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    epochs = max(1, round(steps / len(loader)))
    trainer = Trainer(
        max_epochs=epochs,
        enable_checkpointing=False,
        check_val_every_n_epoch=epochs + 1,
        num_sanity_val_steps=0,
        **quiet,
    )
    trainer.fit(module, loader, loader)
    return module.eval()


def nearest(changes: Tensor, own: Tensor) -> Tensor:
    """Return the (8, 8) confusion: of each class's (8, N, D) changes, the share nearest to each of (8, D)."""
    away = torch.cdist(changes.flatten(0, 1), own).view(8, -1, 8)
    return torch.nn.functional.one_hot(away.argmin(-1), 8).float().mean(1)


def by_class(clips: list[Clip], value: Any) -> Tensor:
    """Return the (8, N, D) values of the clips, class by class, as many of each as the rarest has."""
    found = [[value(clip).flatten() for clip in clips if int(clip.emotion) == place] for place in range(8)]
    fewest = min(map(len, found))
    return torch.stack([torch.stack(values[:fewest]) for values in found])


def landmark_confusions(net: LandmarkNet, train: list[Clip], test: list[Clip]) -> tuple[Tensor, Tensor]:
    """Exchange the class of test clips: the net's confusion, and the true clips' own (the ceiling)."""

    def shift(clip: Clip) -> Tensor:
        return (clip.landmarks - clip.reference_landmarks).mean(0)  # type: ignore[operator]

    own = by_class(train, shift).mean(1)
    calm = own[EMOTIONS.index("neutral")]
    said = [clip for clip in test if int(clip.emotion) == EMOTIONS.index("neutral")]

    @torch.no_grad()
    def speak(clip: Clip, emotion: str) -> Tensor:
        told = emotion_probabilities(emotion)[None]
        return net(clip.audio[None], clip.reference_landmarks[None], told, len(clip.landmarks))[0].mean(0)  # type: ignore[index,arg-type]

    changed = torch.stack(
        [torch.stack([(speak(c, name) - speak(c, "neutral")).flatten() for c in said]) for name in EMOTIONS]
    )
    return nearest(changed, own - calm), nearest(by_class(test, shift), own)


def pixel_confusions(
    module: VideoDiffusion, test: list[Clip], steps: int = 1, strength: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Exchange the class of neutral test clips: what the pixels' change is nearest to, and the same of true furrows."""
    said = [clip for clip in test if int(clip.emotion) == EMOTIONS.index("neutral")]

    def paint(clip: Clip, emotion: str) -> Tensor:
        frames = render_windows(
            module.renderer, module.scheduler, clip.reference, clip.reference_landmarks, [clip.landmarks],  # type: ignore[arg-type]
            emotion_probabilities(emotion), num_inference_steps=steps, window=len(clip.landmarks), overlap=0,  # type: ignore[arg-type]
        )  # fmt: skip
        return torch.cat(list(frames)).float().mean(0) / 255

    def dark(clip: Clip, emotion: str, by: float) -> Tensor:
        plain = clip.frames.float() / 255  # type: ignore[union-attr]
        return (darkened(plain, clip.landmarks, emotion, torch.full((len(plain),), by)) - plain).mean(0).flatten()  # type: ignore[arg-type]

    own = torch.stack([dark(said[0], name, strength) for name in EMOTIONS])
    changed = torch.stack([torch.stack([paint(c, n).flatten() for c in said]) for n in EMOTIONS])
    truth = torch.stack([torch.stack([dark(c, n, strength) for c in said]) for n in EMOTIONS])
    return likest(changed, own), likest(truth, own)


def likest(changes: Tensor, own: Tensor) -> Tensor:
    """Return the (8, 8) confusion by direction, of what sets each class apart from the mean of all."""
    apart = torch.nn.functional.normalize(changes - changes.mean(0), dim=-1)
    taught = torch.nn.functional.normalize(own - own.mean(0), dim=-1)
    return torch.nn.functional.one_hot((apart @ taught.mT).argmax(-1), 8).float().mean(1)


def table(confusion: Tensor) -> str:
    """Return a confusion as markdown, rows the class told, columns the nearest, in percent."""
    lines = ["| told | " + " | ".join(EMOTIONS) + " |", "|---" * 9 + "|"]
    lines += [
        f"| {n} | " + " | ".join(f"{100 * v:.0f}" for v in r) + " |" for n, r in zip(EMOTIONS, confusion, strict=True)
    ]
    return "\n".join(lines)


def prove(args: argparse.Namespace) -> None:
    """Train both networks and print the confusions."""
    seed_everything(0)
    picture, face = read_face(args.portrait, None, args.size)
    speech = read_audio(args.speech)
    train, test = (
        [clip for *_, clip in all_clips(picture, face, speech, args.frames, each, first)]
        for each, first in ((args.each, 0), (2, 1000))
    )
    net = LandmarkNet(width=16, layers=1, attention_layers=0, heads=2, fusion="concat", dropout=0.0)
    generator = fit(LandmarkGenerator(net, learning_rate=2e-2, size=args.size), train, 12, args.steps)
    renderer = Renderer(args.size, widths=(16, 32, 64), patch=2, attention_levels=1)
    video = fit(VideoDiffusion(renderer, learning_rate=2e-3, last_step_share=1.0), train, 8, args.steps)
    lines = [
        f"{len(train)} clips to learn from, {args.frames} frames of {args.size} px, {args.steps} steps each, seed 0"
    ]
    found = {"landmarks": landmark_confusions(generator.net, train, test), "pixels": pixel_confusions(video, test)}
    report(found, lines, args.output)


def whole_clips(cache: Path) -> list[Clip]:
    """Return a cache's clips whole, each with its first frame as the portrait."""
    names = [entry["name"] for entry in read_manifest(cache) if entry["status"] == "ok"]
    return list(ClipDataset(cache, names, reference="first"))  # type: ignore[arg-type]


@torch.no_grad()
def voice_confusion(net: Any, test: list[Clip]) -> Tensor:
    """Return the (8, 8) shares of what each class's voice is heard as."""
    heard = by_class(test, lambda clip: net.probabilities(clip.audio[None])[0])
    return torch.nn.functional.one_hot(heard.argmax(-1), 8).float().mean(1)


def confuse(args: argparse.Namespace) -> None:
    """Print the confusions of checkpoints that were trained on a tree."""
    train, test = whole_clips(args.cache), whole_clips(args.test)
    options: dict[str, Any] = {"map_location": "cpu", "weights_only": True}
    found = {}
    if args.landmark:
        net = LandmarkGenerator.load_from_checkpoint(args.landmark, **options).net.eval()
        found["landmarks"] = landmark_confusions(net, train, test)
    if args.emotion:
        module = EmotionClassifier.load_from_checkpoint(args.emotion, **options).eval()
        found["voices"] = voice_confusion(module.net, test), torch.eye(8)
    if args.video:
        video = VideoDiffusion.load_from_checkpoint(args.video, **options).eval()
        found |= {f"pixels, {steps} steps": pixel_confusions(video, test, steps) for steps in args.steps}
    report(found, [f"{len(train)} clips learnt from, {len(test)} others asked"], args.output)


def report(found: dict[str, tuple[Tensor, Tensor]], lines: list[str], folder: Path) -> None:
    """Print confusions and their ceilings, and write them into the folder."""
    for name, (confusion, ceiling) in found.items():
        right, best = (c.diagonal().mean().item() for c in (confusion, ceiling))
        lines += [f"\n{name}: {right:.1%} nearest to their own class; ceiling {best:.1%}, chance 12.5%\n"]
        lines += [table(confusion)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "confusion.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def main() -> None:
    """Prove that the class path learns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    small = verbs.add_parser("small")
    small.set_defaults(run=prove)
    small.add_argument("--portrait", type=Path, required=True)
    small.add_argument("--speech", type=Path, required=True)
    small.add_argument("--each", type=int, default=4, help="clips of each emotion and level (%(default)s)")
    small.add_argument("--frames", type=int, default=8, help="of a clip (%(default)s)")
    small.add_argument("--size", type=int, default=32, help="px (%(default)s)")
    small.add_argument("--steps", type=int, default=300, help="of each training (%(default)s)")
    asked = verbs.add_parser("confuse")
    asked.set_defaults(run=confuse)
    asked.add_argument("--cache", type=Path, required=True, help="the cache that was learnt from")
    asked.add_argument("--test", type=Path, required=True, help="a cache of other words")
    for part in ("landmark", "emotion", "video"):
        asked.add_argument(f"--{part}", type=Path, help="a checkpoint of `talkhead fit`")
    asked.add_argument("--steps", type=int, nargs="+", default=[1, 4, 10, 30], help="of the video's process")
    for verb in (small, asked):
        verb.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
