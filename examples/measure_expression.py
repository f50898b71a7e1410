"""Does the emotion show? Strangers speaking in eight emotions, looked at by judges that know nothing of talkhead.

    python examples/measure_expression.py portraits --portraits FACES --judges JUDGES --speech A.wav B.wav --output OUT
    python examples/measure_expression.py heard --recordings GRID=FOLDER LibriSpeech=FOLDER --output OUT
    python examples/measure_expression.py smiles --portraits FACES --output OUT
    python examples/measure_expression.py crema --clips FOLDER --output OUT

portraits: FACES holds NNN_neutral.jpg of the Face Research Lab London Set (DeBruine & Jones 2017, CC BY 4.0); without
`--all`, only the 20 people of `HELD_OUT`, on whom nothing was tuned. Each says `--seconds` of a recording in each
emotion; from 0.6 s on `--frames` frames are judged. JUDGES is a folder with `judges.py` (class `Expression`, constant
`LABELS`) and, for MediaPipe's scores, `face_landmarker.task`; what is absent is left out. Every portrait's numbers are
kept in OUT/portraits.jsonl: started again, it goes on where it stopped.

heard: how strongly neutral recordings would move the face, where the emotion is not given.
smiles: how far each person's own smile is from "happy" on their neutral portrait.
crema: CREMA-D's clips of one actor: the mean displacement of brows, lids and mouth corners against the real clip's,
once beside the same sentence said neutrally and once beside the frame that this neutral clip begins with.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from talkhead import TalkingHeadPipeline, __version__
from talkhead.data.clip import EMOTIONS, SAMPLE_RATE
from talkhead.face.expression import EMOTION_ACTIONS, average_face, camera, expression
from talkhead.face.frame import eye_line
from talkhead.face.points import BROWS, EYES, MOUTH_CORNERS, RIGID
from talkhead.face.similarity import fit_similarity
from talkhead.media.read import iter_frames, read_audio, read_image
from talkhead.media.write import write_image
from talkhead.metrics import mouth_opening
from talkhead.pipeline.hearing import heard_keys
from talkhead.tracking.track import load_detector

HELD_OUT = (
    *("001", "022", "029", "036", "044", "045", "067", "069", "086", "092"),
    *("097", "099", "101", "102", "105", "124", "139", "141", "143", "173"),
)
"""random.Random(12).sample of the 66 people's sorted numbers: drawn before anything was tuned."""

SCORES = {
    "browDown": ("browDownLeft", "browDownRight"),
    "browInnerUp": ("browInnerUp",),
    "mouthSmile": ("mouthSmileLeft", "mouthSmileRight"),
    "eyeWide": ("eyeWideLeft", "eyeWideRight"),
}
"""MediaPipe's scores that are looked at: the mean of both sides."""

EXPECTED = {"angry": "browDown", "surprised": "browInnerUp", "happy": "mouthSmile", "fear": "eyeWide"}
"""The score that must rise with each emotion; see `SCORES`."""

CREMA = {"ANG": "angry", "DIS": "disgusted", "FEA": "fear", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}
SHOWING = (*range(68)[BROWS], *range(68)[EYES], *MOUTH_CORNERS)
"""Brows, lids and mouth corners: the points that show an emotion beside the words."""


def load_judges(folder: Path) -> dict[str, Callable[[Tensor, Tensor], dict[str, Tensor]]]:
    """Return what looks at (N, 3, H, W) uint8 frames with (N, 68, 2) px landmarks: its scores by name."""
    looks: dict[str, Any] = {}
    if (folder / "judges.py").is_file():
        spec = importlib.util.spec_from_file_location("judges", folder / "judges.py")
        assert spec is not None and spec.loader is not None
        judges = sys.modules["judges"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(judges)
        judge, labels = judges.Expression(), judges.LABELS

        def judged(frames: Tensor, landmarks: Tensor) -> dict[str, Tensor]:
            answers = judge(frames, landmarks)
            return {f"{which} {label}": a[:, i] for which, a in answers.items() for i, label in enumerate(labels)}

        looks["judges"] = judged
    model = folder / "face_landmarker.task"
    if model.is_file() and importlib.util.find_spec("mediapipe"):
        looks["mediapipe"] = mediapipe_scores(model)
    return looks


def mediapipe_scores(model: Path) -> Callable[[Tensor, Tensor], dict[str, Tensor]]:
    """Return what gives MediaPipe's `SCORES` of frames, NaN where it finds no face."""
    import mediapipe
    from mediapipe.tasks.python import BaseOptions, vision

    options = vision.FaceLandmarkerOptions(BaseOptions(model_asset_path=str(model)), output_face_blendshapes=True)
    landmarker = vision.FaceLandmarker.create_from_options(options)

    def scores(frames: Tensor, landmarks: Tensor) -> dict[str, Tensor]:
        rows = []
        for frame in torch.nn.functional.interpolate(frames.float(), scale_factor=3, mode="bilinear"):
            pixels = frame.round().clamp(0, 255).byte().permute(1, 2, 0).contiguous().numpy()
            found = landmarker.detect(mediapipe.Image(mediapipe.ImageFormat.SRGB, pixels)).face_blendshapes
            by_name = {c.category_name: c.score for c in found[0]} if found else {}
            rows.append([sum(by_name.get(n, torch.nan) for n in names) / len(names) for names in SCORES.values()])
        return {f"mp {name}": column for name, column in zip(SCORES, torch.tensor(rows).unbind(1), strict=True)}

    return scores


def descriptor() -> Callable[[Tensor, Tensor], Tensor]:
    """Return dlib's face descriptor, (3, H, W) uint8 and (68, 2) px -> (128,); under 0.6 apart is one person to it."""
    import dlib

    spec = importlib.util.find_spec("face_recognition_models")
    assert spec is not None and spec.origin is not None
    weights = Path(spec.origin).parent / "models" / "dlib_face_recognition_resnet_model_v1.dat"
    net = dlib.face_recognition_model_v1(str(weights))

    def describe(frame: Tensor, points: Tensor) -> Tensor:
        (x, y), (right, low) = (edge.round().int().tolist() for edge in (points.amin(0), points.amax(0)))
        shape = dlib.full_object_detection(
            dlib.rectangle(x, y, right, low), [dlib.point(*p) for p in points.round().int().tolist()]
        )
        return torch.tensor(list(net.compute_face_descriptor(frame.permute(1, 2, 0).contiguous().numpy(), shape)))

    return describe


def measure_portrait(
    pipe: TalkingHeadPipeline, picture: Path, speech: Tensor, looks: dict[str, Any], args: argparse.Namespace
) -> tuple[dict[str, Any], Tensor]:
    """Let one portrait speak in every emotion: the numbers of each, and a row of pictures (3, H, W')."""
    points, describe = load_detector("dlib")(read_image(picture)).landmarks, descriptor()
    options: dict[str, Any] = {"reference_landmarks": points, "size": pipe.renderer.config.size}
    rows: dict[str, Any] = {}
    shown, calm, first = [], None, None
    for emotion in ("neutral", *(name for name in args.emotions if name != "neutral")):
        result = pipe(picture, speech, emotion=emotion, emotion_strength=args.strength, **options)
        calm = result if calm is None else calm
        at = torch.linspace(0.6 * float(result.fps), len(result.frames) - 1, args.frames).round().long()
        frames, landmarks = result.frames[at].permute(0, 3, 1, 2).contiguous(), result.landmarks[at]
        row = {name: v.nanmean().item() for look in looks.values() for name, v in look(frames, landmarks).items()}
        face = torch.stack([describe(f, p) for f, p in zip(frames, landmarks, strict=True)])
        first = face if first is None else first
        row["identity"] = (face - first).norm(dim=1).mean().item()
        openings = torch.stack([mouth_opening(calm.landmarks), mouth_opening(result.landmarks)])
        row["opening correlation"] = torch.corrcoef(openings)[0, 1].item()
        row["step"] = largest_step(result.landmarks) / largest_step(calm.landmarks)
        rows[emotion] = row
        shown.append(frames[args.frames // 2])
    return rows, torch.cat(shown, 2)


def largest_step(landmarks: Tensor) -> float:
    """Return the longest way of a point from one frame to the next, px."""
    return landmarks.diff(dim=0).norm(dim=-1).max().item()


def run_portraits(args: argparse.Namespace) -> None:
    """Measure the portraits that are not measured yet, then write table and pictures."""
    args.output.mkdir(parents=True, exist_ok=True)
    log, pipe, looks = args.output / "portraits.jsonl", TalkingHeadPipeline.from_pretrained(args.speaker), None
    done = {entry["name"]: entry for entry in map(json.loads, log.read_text().splitlines())} if log.is_file() else {}
    pictures = sorted(args.portraits.glob("*_neutral.jpg"))
    chosen = [p for p in pictures if args.all or p.name[:3] in HELD_OUT][: args.limit]
    for number, picture in enumerate(chosen):
        if picture.name[:3] in done:
            continue
        looks = load_judges(args.judges) if looks is None else looks
        speech = read_audio(args.speech[number % len(args.speech)])[: round(args.seconds * SAMPLE_RATE)]
        rows, row = measure_portrait(pipe, picture, speech, looks, args)
        write_image(args.output / f"{picture.name[:3]}.png", row)
        done[picture.name[:3]] = {"name": picture.name[:3], "rows": rows}
        with log.open("a") as file:
            file.write(json.dumps(done[picture.name[:3]]) + "\n")
        print(picture.name, flush=True)
    table = portrait_table([done[p.name[:3]]["rows"] for p in chosen])
    sheet = torch.cat([read_image(args.output / f"{p.name[:3]}.png") for p in chosen], 1)
    write_image(args.output / "sheet.png", sheet)
    protocol = f"talkhead {__version__}, torch {torch.__version__}, strength {args.strength}, {len(chosen)} portraits, "
    protocol += f"{args.seconds} s of speech, {args.frames} frames each, {pipe.renderer.config.size} px, seed 0"
    (args.output / "portraits.md").write_text(f"{protocol}\n\n{table}\n", encoding="utf-8")
    print(protocol, table, sep="\n\n")


def portrait_table(people: list[dict[str, Any]]) -> str:
    """Return the markdown table of all people's numbers: shifts against the same portrait speaking neutral."""
    lines = ["| emotion | judge a: neutral, shift, rises | judge b | MediaPipe: shift, least, rises |"]
    lines[0] += " opening correlation, least | largest step | identity: mean, most |"
    lines.append("|---" * 7 + "|")
    for emotion in (name for name in EMOTIONS if name in people[0]):
        cells = []
        score = f"mp {EXPECTED[emotion]}" if emotion in EXPECTED else None
        for key in (f"a {emotion}", f"b {emotion}", score):
            if key not in people[0]["neutral"]:
                cells.append("-")
                continue
            calm = torch.tensor([rows["neutral"][key] for rows in people])
            shift = torch.tensor([rows[emotion][key] for rows in people]) - calm
            rises = f"{int((shift > 0).sum())} of {len(shift)}"
            head = f"{calm.mean():.2f}, {shift.mean():+.2f}"
            cells.append(
                f"{key[3:]} {shift.mean():+.2f}, {shift.min():+.2f}, {rises}" if key == score else f"{head}, {rises}"
            )
        kept, step, same = (
            torch.tensor([rows[emotion][k] for rows in people]) for k in ("opening correlation", "step", "identity")
        )
        cells += [f"{kept.min():.3f}", f"{step.max():.2f}", f"{same.mean():.2f}, {same.max():.2f}"]
        lines.append(f"| {emotion} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def run_heard(args: argparse.Namespace) -> None:
    """Print how strong the expression is that is made of what is heard in whole folders of neutral recordings."""
    pipe = TalkingHeadPipeline.from_pretrained(args.speaker)
    print("| recordings | number | strength of what is heard: median | upper decile |\n|---|---|---|---|")
    for name, _, folder in (text.partition("=") for text in args.recordings):
        home, _, pattern = folder.partition(":")
        files = sorted(
            p for p in Path(home).rglob(pattern or "*") if p.suffix in (".flac", ".wav", ".mp3", ".ogg", ".mpg", ".mp4")
        )
        strengths = []
        for file in files[:: max(1, len(files) // args.limit)]:
            speech = read_audio(file)
            keys = heard_keys(pipe.emotion_net, speech)
            shown = keys.shown_at(torch.arange(0, len(speech) / SAMPLE_RATE, 0.04, dtype=torch.float64))
            strengths.append(1 - shown[:, EMOTIONS.index("neutral")])
        every = torch.cat(strengths)
        print(f"| {name} | {len(strengths)} | {every.median():.2f} | {every.quantile(0.9):.2f} |", flush=True)


def run_smiles(args: argparse.Namespace) -> None:
    """Print how people's own smiles compare with "happy" on their neutral portraits."""
    detector, rows = load_detector("dlib"), []
    for picture in sorted(args.portraits.glob("*_neutral.jpg")):
        calm = detector(read_image(picture)).landmarks
        smile = detector(read_image(picture.with_name(picture.name.replace("neutral", "smiling")))).landmarks
        own = (fit_similarity(smile[list(RIGID)], calm[list(RIGID)])(smile) - calm) / eye_line(calm).norm()
        ours = (expression(calm, EMOTION_ACTIONS["happy"]) - calm) / eye_line(calm).norm()
        rows.append((picture.name[:3] in HELD_OUT, own, ours))
    for name, chosen in (("tuned on", [r for r in rows if not r[0]]), ("held out", [r for r in rows if r[0]])):
        own, ours = (torch.stack([r[i] for r in chosen]) for i in (1, 2))
        mouth = [*range(48, 68)]
        cosines = torch.cosine_similarity(own[:, mouth].flatten(1), ours[:, mouth].flatten(1))
        sizes = ours[:, mouth].norm(dim=(1, 2)) / own[:, mouth].norm(dim=(1, 2))
        corners = [t[:, MOUTH_CORNERS].norm(dim=-1).mean(1) for t in (own, ours)]
        print(
            f"{name}, {len(own)} people: mouth corners move {corners[0].mean():.3f} (sd {corners[0].std():.3f}) eye "
            f"distances in their own smile, {corners[1].mean():.3f} in ours; mouth: cosine {cosines.mean():.2f} "
            f"(least {cosines.min():.2f}), ours over own {sizes.median():.2f} in the median"
        )


def turned_back(frames: Tensor, rest: Tensor) -> Tensor:
    """Return the (T, 68, 2) displacements from (68, 2) px ``rest`` that are no motion of the head.

    The rest's points get the mean face's depth; an affine camera is fitted to nose and eye corners (the depth's part
    with a ridge), and what it does not explain is turned back into the rest's picture.
    """
    depth = average_face()[:, 2] * camera(rest).norm(dim=0).mean()
    solid = torch.cat([rest, depth[:, None]], 1)
    solid = solid - solid[list(RIGID)].mean(0)
    few = solid[list(RIGID)]
    ridge = torch.diag(torch.tensor([0.0, 0.0, 0.3]) * few[:, 2].square().sum())
    centred = frames - frames[:, list(RIGID)].mean(1, keepdim=True)
    cameras = torch.linalg.solve(few.mT @ few + ridge, few.mT @ centred[:, list(RIGID)])
    return (centred - solid @ cameras) @ torch.linalg.inv(cameras[:, :2])


def track(detector: Any, clip: Path) -> tuple[Tensor, Tensor]:
    """Return a clip's first frame and its (T, 68, 2) px landmarks where a face is found."""
    frames = list(iter_frames(clip))
    found = [detector(frame) for frame in frames]
    return frames[0], torch.stack([answer.landmarks for answer in found if answer is not None])


def crema_displacements(args: argparse.Namespace) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
    """Yield each emotion's (P, 2) mean displacements in eye distances: true beside neutral words, beside rest; ours."""
    detector, pipe = load_detector("dlib"), TalkingHeadPipeline.from_pretrained(args.speaker)
    clips = {code: next(args.clips.glob(f"{args.actor}_*_{code}_*.flv")) for code in CREMA}
    portrait, neutral = track(detector, clips["NEU"])
    rest, points = neutral[0], list(SHOWING)
    calm = turned_back(neutral, rest).mean(0)
    for code, clip in clips.items():
        landmarks = neutral if code == "NEU" else track(detector, clip)[1]
        moved = turned_back(landmarks, rest).mean(0)
        true, from_rest = ((moved - other)[points] / eye_line(rest).norm() for other in (calm, torch.zeros(68, 2)))
        options: dict[str, Any] = {"reference_landmarks": rest, "frame": "full"}
        ours, without = (
            pipe(portrait, read_audio(clip), emotion=emotion, **options).landmarks
            for emotion in (CREMA[code], "neutral")
        )
        # Both have the same words and the same head: their difference is the expression, no head to be turned back.
        yield code, true, from_rest, (ours - without).mean(0)[points] / eye_line(rest).norm()


def run_crema(args: argparse.Namespace) -> None:
    """Print how like the actor's own expressions ours are, and which of them each is nearest to."""
    codes, beside_words, beside_rest, ours = zip(*crema_displacements(args), strict=True)
    brows = list(range(10))
    raised = -torch.stack(beside_rest)[codes.index("NEU"), brows, 1].mean()
    print(f"in the neutral clip the brows stand {raised:.3f} eye distances above its first frame on average")
    for name, true in (("the neutral clip", beside_words), ("its first frame", beside_rest)):
        print(f"\nbeside {name}:\n\n{crema_table(codes, torch.stack(true).flatten(1), torch.stack(ours).flatten(1))}")


def crema_table(codes: tuple[str, ...], true: Tensor, ours: Tensor) -> str:
    """Return (6, D) displacements compared, as markdown."""
    cosine, away = torch.cosine_similarity(ours[:, None], true[None], dim=-1), torch.cdist(ours, true)
    emotional = [i for i, code in enumerate(codes) if code != "NEU"]
    lines = ["| ours | cosine with the actor's | size over theirs | nearest by direction | nearest by distance |"]
    lines.append("|---" * 5 + "|")
    for i, code in enumerate(codes):
        nearest = CREMA[codes[away[i].argmin()]]
        if i not in emotional:  # no expression has no direction
            lines.append(f"| neutral | - | - | - | {nearest} |")
            continue
        like = CREMA[codes[emotional[int(cosine[i, emotional].argmax())]]]
        size = ours[i].norm() / true[i].norm()
        lines.append(f"| {CREMA[code]} | {cosine[i, i]:.2f} | {size:.2f} | {like} | {nearest} |")
    right = int((away.argmin(1) == torch.arange(len(codes))).sum())
    lines.append(
        f"\nmean cosine {cosine[emotional, emotional].mean():.2f} (no expression: 0 by definition), {right} of "
        f"{len(codes)} nearest to their own (no expression: 1)"
    )
    return "\n".join(lines)


def main() -> None:
    """Run one of the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    for name, run in {"portraits": run_portraits, "heard": run_heard, "smiles": run_smiles, "crema": run_crema}.items():
        verb = verbs.add_parser(name)
        verb.set_defaults(run=run)
        verb.add_argument("--speaker", default="bundled", help="the pipeline (%(default)s)")
        verb.add_argument("--output", type=Path, default=Path("outputs/expression"), help="folder (%(default)s)")
        if name in ("portraits", "smiles"):
            verb.add_argument("--portraits", type=Path, required=True)
        if name == "portraits":
            verb.add_argument("--judges", type=Path, required=True)
            verb.add_argument(
                "--speech", nargs="+", required=True, help="portrait n says recording n modulo their number"
            )
            verb.add_argument("--seconds", type=float, default=1.6, help="of each recording (%(default)s)")
            verb.add_argument("--frames", type=int, default=8, help="looked at in each video (%(default)s)")
            verb.add_argument("--strength", type=float, default=1.0, help="(%(default)s)")
            verb.add_argument("--emotions", nargs="+", default=EMOTIONS, choices=EMOTIONS, help="beside neutral (all)")
            verb.add_argument("--all", action="store_true", help="not only the people held out")
        if name in ("portraits", "heard"):
            verb.add_argument("--limit", type=int, default=66, help="of portraits, of recordings (%(default)s)")
        if name == "heard":
            verb.add_argument("--recordings", nargs="+", required=True, help="NAME=FOLDER or NAME=FOLDER:PATTERN")
        if name == "crema":
            verb.add_argument("--clips", type=Path, required=True)
            verb.add_argument("--actor", default="1001", help="(%(default)s)")
    args = parser.parse_args()
    torch.manual_seed(0)
    args.run(args)


if __name__ == "__main__":
    main()
