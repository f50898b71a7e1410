"""Does the mouth follow voices that it was not trained on? Opening against loudness, per recording, in a figure.

    python examples/voices_landmarks.py --net LAST.ckpt --root CACHE --voices RAVDESS=FOLDER LibriSpeech=FOLDER \
        --output voices.png

For GRID (the cache's test clips) and each folder of recordings (`--each` of every subfolder, or all of a flat folder;
at most 20 s of each) the net speaks the sound with one and the same portrait, which it is not shown (blind), without
gate and idle motion. The figure's first part shows the correlation of the mouth's opening with the sound's envelope
(`talkhead.metrics.audio_mouth_sync`), the second one recording of each folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from talkhead.data.clip import SAMPLE_RATE, emotion_probabilities
from talkhead.data.datamodule import MEADDataModule
from talkhead.media.read import read_audio
from talkhead.metrics import audio_envelope, audio_mouth_sync, mouth_opening
from talkhead.nets.landmark import LandmarkNet
from talkhead.speaker.trained import load_landmark

SOUNDS = (".flac", ".wav", ".mp3", ".ogg")


def recordings(folder: Path, each: int) -> list[Path]:
    """Return the first ``each`` recordings, by name, of every subfolder; all recordings where there is no subfolder."""
    folders = sorted(p for p in folder.iterdir() if p.is_dir())
    sounds = [sorted(p for p in f.iterdir() if p.suffix in SOUNDS) for f in folders or [folder]]
    chosen = [p for found in sounds for p in (found[:each] if folders else found)]
    if not chosen:
        raise SystemExit(f"--voices: no recordings ({', '.join(SOUNDS)}) in {folder}")
    return chosen


def speak(net: LandmarkNet, audio: Tensor, portrait: Tensor) -> Tensor:
    """Return the (T, 68, 2) motion that the net hears in a recording."""
    return net.generate(audio, portrait, emotion_probabilities("neutral"), gate=False, idle=0)


def draw(correlations: dict[str, Tensor], curves: dict[str, tuple[Tensor, Tensor]], path: Path) -> None:
    """Draw all correlations, and the envelope and the opening of one recording of each kind."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 1 + len(curves), figsize=(4 + 3 * len(curves), 3), layout="constrained")
    generator = torch.Generator().manual_seed(0)
    for place, values in enumerate(correlations.values()):
        spread = place + 0.2 * (torch.rand(len(values), generator=generator) - 0.5)
        axes[0].plot(spread, values, ".", color="tab:blue", alpha=0.5)
        axes[0].plot([place - 0.3, place + 0.3], [values.mean()] * 2, color="black")
    axes[0].set_xticks(range(len(correlations)), [f"{k}\n(n={len(v)})" for k, v in correlations.items()], fontsize=8)
    axes[0].set_ylabel("opening ~ envelope")
    axes[0].set_ylim(0, 1)
    for axis, (name, (envelope, opening)) in zip(axes[1:], curves.items(), strict=True):
        seconds = torch.arange(len(opening)) / 25
        axis.plot(seconds, envelope / envelope.max(), color="tab:gray", label="envelope")
        axis.plot(seconds, opening / opening.max(), color="tab:red", label="mouth opening")
        axis.set(title=name, xlabel="s", yticks=[])
    axes[1].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


def main() -> None:
    """Measure and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", type=Path, required=True, help="checkpoint, or folder of a saved net")
    parser.add_argument("--root", type=Path, required=True, help="cache folder with the training speaker")
    parser.add_argument("--voices", nargs="+", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--each", type=int, default=2, help="recordings of each subfolder")
    parser.add_argument("--output", type=Path, default=Path("voices.png"))
    args = parser.parse_args()
    net = load_landmark(args.net).parts["net"].eval()
    data = MEADDataModule(args.root, modality="landmarks", num_frames=None, reference="first")
    clips = list(data.dataset("test"))
    portrait = clips[0].reference_landmarks
    sounds = {"GRID": [c.audio for c in clips]}
    for pair in args.voices:
        name, _, folder = pair.partition("=")
        sounds[name] = [read_audio(path)[: 20 * SAMPLE_RATE] for path in recordings(Path(folder), args.each)]
    correlations = {"GRID, true": torch.tensor([audio_mouth_sync(c.landmarks, c.audio).value for c in clips])}
    curves = {}
    for name, audios in sounds.items():
        motions = [speak(net, audio, portrait) for audio in audios]
        pairs = [audio_mouth_sync(m, a) for m, a in zip(motions, audios, strict=True)]
        correlations[name] = torch.tensor([p.value for p in pairs])
        opening = mouth_opening(motions[0])[:100]
        curves[name] = (audio_envelope(audios[0], len(motions[0]))[:100], opening)
        lag = sum(p.lag for p in pairs) / len(pairs)
        print(f"{name}: mean best lag {lag:+.2f} frames")
    for name, values in correlations.items():
        print(f"{name}: {values.mean():.3f}, deviation {values.std():.3f}, least {values.min():.3f}, n={len(values)}")
    draw(correlations, curves, args.output)


if __name__ == "__main__":
    main()
