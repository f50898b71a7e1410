"""Cross-validate the emotion classifier by speaker: recall, calibration and confusion on unheard voices.

    python examples/cross_validate_emotion.py --root CACHE --folds 5          # a cache of `talkhead preprocess`
    python examples/cross_validate_emotion.py --ravdess FOLDER --folds 4      # RAVDESS with its own eight labels

The speakers, in order of their names, are cut into as many blocks of neighbours as there are folds; each fold is tested
on one block and trained on the others. No speaker is ever in both, and nothing is chosen within a fold: the number of
epochs is fixed beforehand, and a fold's temperature is fitted to the other folds' test answers. A fold's answers and
network are kept in --output, so a run that was broken off continues with the folds that are missing.
"""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import lightning
import torch
import torchaudio
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset
from torchmetrics.functional.classification import multiclass_calibration_error, multiclass_confusion_matrix

import talkhead
from talkhead.augmentation.spectrum import FrameAugmentation
from talkhead.data.clip import EMOTIONS, SAMPLE_RATE, Clip
from talkhead.data.dataset import ClipDataset, collate, read_manifest
from talkhead.media.read import read_audio
from talkhead.modules.calibration import fit_temperature
from talkhead.modules.emotion import EmotionClassifier, average_recall, save_confusion
from talkhead.nets.conformer import ConformerClassifier

RAVDESS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")


class Recordings(Dataset[Clip]):
    """Whole recordings in memory, or a random stretch of each."""

    def __init__(self, clips: list[Clip], seconds: float | None = None):
        self.clips, self.seconds = clips, seconds

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Clip:
        clip = self.clips[index]
        if self.seconds is None or len(clip.audio) <= self.seconds * SAMPLE_RATE:
            return clip
        length = round(self.seconds * SAMPLE_RATE)
        start = int(torch.randint(len(clip.audio) - length + 1, ()))
        return replace(clip, audio=clip.audio[start : start + length], samples=torch.tensor(length))


class Frames(NamedTuple):
    """What the network makes of recordings before anything is learnt: (B, T, F), (B,) of them valid, (B,) emotions."""

    frames: Tensor
    lengths: Tensor
    emotion: Tensor


class WholeRecordings(EmotionClassifier):
    """Learns from whole recordings, whose frames are the same in every epoch and so are made once."""

    def training_step(self, batch: Frames, batch_idx: int) -> Tensor:
        return self.learn(*batch)


def make_frames(net: ConformerClassifier, clips: list[Clip]) -> list[tuple[Tensor, Tensor]]:
    """Hear whole recordings; no part of a front end learns, so once is enough for all folds."""
    with torch.no_grad():
        shown = track(clips, "Hearing recordings", console=Console(stderr=True))
        return [(net.features(clip.audio[None])[0][0], clip.emotion) for clip in shown]


def stack_frames(rows: list[tuple[Tensor, Tensor]]) -> Frames:
    frames, emotion = zip(*rows, strict=True)
    return Frames(pad_sequence(list(frames), True), torch.tensor([len(x) for x in frames]), torch.stack(emotion))


def read_cache(root: Path) -> tuple[list[Clip], list[str]]:
    """Read a cache's sounds, with MEAD's labels, and the speaker of each."""
    entries = [e for e in read_manifest(root) if e["status"] == "ok"]
    dataset = ClipDataset(root, [e["name"] for e in entries], modality="audio")
    return [dataset[i] for i in range(len(dataset))], [e["identity"] for e in entries]


def read_ravdess(root: Path) -> tuple[list[Clip], list[str]]:
    """Read RAVDESS with its own eight labels (``calm`` has no MEAD label, so a cache leaves it out)."""
    clips, speakers = [], []
    for path in sorted(root.rglob("03-01-*.*")):
        code = re.fullmatch(r"03-01-(\d\d)-\d\d-\d\d-\d\d-(\d\d)", path.stem)
        if code is None:
            continue
        audio, label = read_audio(path), torch.tensor(int(code[1]) - 1)
        clips.append(Clip(audio, label, torch.tensor(0.0), torch.tensor(len(audio))))
        speakers.append(code[2])
    if not clips:
        raise SystemExit(f"--ravdess: found no 03-01-EE-II-SS-RR-AA files (speech, sound alone) in {root}")
    return clips, speakers


def blocks(speakers: list[str], folds: int) -> list[list[str]]:
    """Cut the sorted speakers into blocks of neighbours, as equal as can be."""
    names = sorted(set(speakers))
    if folds > len(names):
        raise SystemExit(f"--folds: at most one per speaker, of whom there are {len(names)}; got {folds}")
    edges = [round(i * len(names) / folds) for i in range(folds + 1)]
    return [names[a:b] for a, b in zip(edges, edges[1:], strict=False)]


def build(args: argparse.Namespace, names: list[str]) -> ConformerClassifier:
    return ConformerClassifier(
        args.size,
        emotions=names,
        dropout=args.dropout,
        head_dropout=args.head_dropout,
        pitch=args.pitch,
        frames_per_second=args.frames_per_second,
        batch_norm=args.batch_norm,
        encoder=args.encoder,
        encoder_seconds=args.encoder_seconds,
    )


def run_fold(args: argparse.Namespace, names: list[str], train: list, test: list, folder: Path) -> Tensor:
    """Train on one part of the speakers, keep the network, and return the others' logits (N, E).

    The parts are clips, or with ``--seconds 0`` the frames of whole recordings.
    """
    net = build(args, names)
    augmentation = None
    if args.encoder == "logmel":
        augmentation = FrameAugmentation(masks=args.masks, mask_frames=args.mask_frames)
    kind = EmotionClassifier if args.seconds else WholeRecordings
    module = kind(net, args.learning_rate, augmentation, args.mixup, args.label_smoothing)
    if args.seconds:
        loader = DataLoader(
            Recordings(train, args.seconds), args.batch_size, shuffle=True, drop_last=True, collate_fn=collate
        )
    else:
        loader = DataLoader(train, args.batch_size, shuffle=True, drop_last=True, collate_fn=stack_frames)
    trainer = lightning.Trainer(
        max_epochs=args.epochs,
        accelerator=args.accelerator,
        devices=1,
        precision=args.precision,
        gradient_clip_val=1.0,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=args.progress,
    )
    trainer.fit(module, loader)
    net.eval()
    net.save_pretrained(folder)
    with torch.inference_mode():
        if args.seconds:
            batches = DataLoader(Recordings(test), 16, collate_fn=collate)
            return torch.cat([net(batch.audio, batch.samples) for batch in batches])
        stacks = DataLoader(test, 16, collate_fn=stack_frames)
        return torch.cat([net.classify(stack.frames, stack.lengths) for stack in stacks])


def report(args: argparse.Namespace, names: list[str], parts: list[list[str]], answers: list[tuple]) -> None:
    """Print the table of the folds, the calibration and the confusion matrix, with protocol, seed and versions."""
    confusions, before, after, temperatures = [], [], [], []
    for fold, (logits, target) in enumerate(answers):
        others = [answer for i, answer in enumerate(answers) if i != fold] or [(logits, target)]
        temperature = fit_temperature(torch.cat([a[0] for a in others]), torch.cat([a[1] for a in others]))
        temperatures.append(temperature)
        before.append(logits.softmax(-1))
        after.append((logits / temperature).softmax(-1))
        confusions.append(multiclass_confusion_matrix(logits, target, num_classes=len(names)))
    target = torch.cat([a[1] for a in answers])
    recalls = torch.stack([average_recall(c) for c in confusions])
    correct = torch.stack([c.diagonal().sum() / c.sum() for c in confusions])
    print(f"\n{args.size}, {len(names)} emotions, {len(target)} recordings, {len(parts)} folds by speaker, ", end="")
    print(
        f"{args.epochs} epochs, seed {args.seed}; talkhead {talkhead.__version__}, torch {torch.__version__}, ", end=""
    )
    print(f"torchaudio {torchaudio.__version__}, lightning {lightning.__version__}\n")
    print("| test speakers | recordings | UAR | accuracy | temperature | ECE before | ECE after |\n" + "|---" * 7 + "|")
    for part, (_, truth), recall, right, heat, raw, scaled in zip(
        parts, answers, recalls, correct, temperatures, before, after, strict=True
    ):
        errors = [multiclass_calibration_error(p, truth, len(names)).item() for p in (raw, scaled)]
        print(f"| {' '.join(part)} | {len(truth)} | {recall:.3f} | {right:.3f} | {heat:.2f} ", end="")
        print(f"| {errors[0]:.3f} | {errors[1]:.3f} |")
    spread = (recalls.std(), correct.std()) if len(parts) > 1 else (0.0, 0.0)
    pooled = [multiclass_calibration_error(torch.cat(p), target, len(names)).item() for p in (before, after)]
    print(f"| mean and standard deviation over folds | {len(target)} | {recalls.mean():.3f} ± {spread[0]:.3f} ", end="")
    print(f"| {correct.mean():.3f} ± {spread[1]:.3f} | | all: {pooled[0]:.3f} | all: {pooled[1]:.3f} |\n")
    confusion = torch.stack(confusions).sum(0)
    print("| true \\ heard as | " + " | ".join(names) + " | recall |\n" + "|---" * (len(names) + 2) + "|")
    for i, name in enumerate(names):
        share = confusion[i, i] / confusion[i].sum().clamp(min=1)
        print(f"| {name} | " + " | ".join(str(int(n)) for n in confusion[i]) + f" | {share:.2f} |")
    save_confusion(confusion, names, args.output / "confusion_matrix.png")
    if "calm" in names:
        report_without_calm(names, after, [a[1] for a in answers])


def report_without_calm(names: list[str], probabilities: list[Tensor], targets: list[Tensor]) -> None:
    """Print what the same answers are worth in seven classes, as calm is often counted as neutral."""
    calm, neutral = names.index("calm"), names.index("neutral")
    merged = [p.clone() for p in probabilities]
    for p in merged:
        p[:, neutral] = (p[:, neutral] + p[:, calm]).clamp(max=1)  # beyond 1, torchmetrics takes them for logits
        p[:, calm] = 0
    targets = [target.masked_fill(target == calm, neutral) for target in targets]
    confusions = [
        multiclass_confusion_matrix(p, t, num_classes=len(names)) for p, t in zip(merged, targets, strict=True)
    ]
    recalls = torch.stack([average_recall(c) for c in confusions])
    error = multiclass_calibration_error(torch.cat(merged), torch.cat(targets), len(names))
    print(f"\nSeven classes (calm counted as neutral, in the same answers): UAR {recalls.mean():.3f}", end="")
    print(f" ± {recalls.std():.3f}, ECE after scaling {error:.3f}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--root", type=Path, help="a cache made by talkhead preprocess")
    source.add_argument("--ravdess", type=Path, help="the folder of RAVDESS's speech recordings")
    parser.add_argument("--output", type=Path, default=Path("outputs/cross_validation"), help="answers and figure")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--size", default="XS")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--head-dropout", type=float, default=0.2)
    parser.add_argument("--pitch", action="store_true", help="hear the melody")
    parser.add_argument("--frames-per-second", type=int, default=100)
    parser.add_argument("--batch-norm", action="store_true")
    parser.add_argument("--encoder", default="logmel", help="logmel, or a pretrained speech encoder (name or folder)")
    parser.add_argument("--encoder-seconds", type=float, help="length of the pieces that Whisper hears")
    parser.add_argument("--masks", type=int, default=1, help="SpecAugment's stripes in time, and in frequency")
    parser.add_argument("--mask-frames", type=int, default=25)
    parser.add_argument("--mixup", type=float, default=0.2)
    parser.add_argument("--label-smoothing", type=float, default=0.05)
    parser.add_argument("--seconds", type=float, default=2.5, help="length of a training stretch; 0: the whole")
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--progress", action="store_true")
    return parser.parse_args()


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    clips, speakers = read_cache(args.root) if args.root else read_ravdess(args.ravdess)
    all_names = list(EMOTIONS if args.root else RAVDESS)
    present = sorted({int(clip.emotion) for clip in clips})
    names = [all_names[i] for i in present]
    clips = [replace(clip, emotion=torch.tensor(present.index(int(clip.emotion)))) for clip in clips]
    parts = blocks(speakers, args.folds)
    settings = {k: str(v) for k, v in vars(args).items() if k not in ("output", "threads", "progress")}
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "settings.json").write_text(json.dumps(settings, indent=1))
    answers: list[tuple[Tensor, Tensor]] = []
    heard: list = clips if args.seconds else []
    for fold, part in enumerate(parts):
        kept = args.output / f"fold_{fold}.pt"
        if kept.is_file() and (saved := torch.load(kept))["settings"] == settings:
            logits = saved["logits"]
        else:
            heard = heard or make_frames(build(args, names), clips)
            train, test = ([x for x, s in zip(heard, speakers, strict=True) if (s in part) == t] for t in (False, True))
            lightning.seed_everything(args.seed + fold, verbose=False)
            logits = run_fold(args, names, train, test, args.output / f"network_{fold}")
            torch.save({"settings": settings, "logits": logits}, kept.with_suffix(".partial"))
            kept.with_suffix(".partial").replace(kept)
        target = [clip.emotion for clip, speaker in zip(clips, speakers, strict=True) if speaker in part]
        answers.append((logits, torch.stack(target)))
        recall = average_recall(multiclass_confusion_matrix(*answers[-1], num_classes=len(names)))
        learnt = len(clips) - len(target)
        print(f"fold {fold}: {learnt} to train on, {len(target)} to test, UAR {recall:.3f}", flush=True)
    report(args, names, parts, answers)


if __name__ == "__main__":
    main()
