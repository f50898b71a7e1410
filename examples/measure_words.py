"""How much of what is said can be read from the lips: GRID's 51 words from lip landmarks, of the truth and of a net.

    python examples/measure_words.py --net LAST.ckpt --root CACHE --align ALIGNMENTS      # 24 test clips of 6 words

A linear classifier (logistic regression) learns the words from the true lips of the training clips, each word's frames
by GRID's alignment, two more on both sides, read at 12 places. Head motion is taken out, and so is the clip's mean
mouth. How long a word lasts is not told. Ridge weight by the validation clips. Rows: the truth, the net
(`generate(idle=0)`), the training set's mean motion, a still mouth, and the true lips of another test clip.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from talkhead.data.clip import Clip, emotion_probabilities
from talkhead.data.datamodule import MEADDataModule
from talkhead.face.frame import face_frame, to_face
from talkhead.face.head_state import still_head
from talkhead.face.points import LOWER_JAW, MOUTH
from talkhead.speaker.trained import load_landmark

PLACES, AROUND, UNITS = 12, 2, 1000
NEUTRAL = emotion_probabilities("neutral")


def read_words(path: Path) -> list[tuple[int, int, str]]:
    """Read a GRID alignment: first frame, frame after the last, word, without the silences."""
    rows = [line.split() for line in path.read_text().splitlines() if line.strip()]
    words = [(int(first) // UNITS, -(-int(last) // UNITS), word) for first, last, word in rows]
    return [word for word in words if word[2] not in ("sil", "sp")]


def lips(track: Tensor, rest: Tensor) -> Tensor:
    """Write (T, 68, 2) px as (T, 62) lips and jaw in face sizes, without head motion and the clip's mean."""
    centre, axes = face_frame(rest)
    own = to_face(still_head(track, rest), (centre[None], axes[None]))
    points = torch.cat([own[:, MOUTH], own[:, LOWER_JAW]], 1).flatten(1)
    return points - points.mean(0)


def describe(track: Tensor, rest: Tensor, words: list[tuple[int, int, str]]) -> Tensor:
    """Return (W, 12 * 62): each word's lips at 12 places."""
    shapes = lips(track, rest)
    found = []
    for first, stop, _ in words:
        place = torch.linspace(first - AROUND, stop - 1 + AROUND, PLACES).clamp(0, len(shapes) - 1)
        low = place.long().clamp(max=len(shapes) - 2)
        found.append(torch.lerp(shapes[low], shapes[low + 1], (place - low)[:, None]).flatten())
    return torch.stack(found)


def learn(x: Tensor, y: Tensor, classes: int, ridge: float) -> Tensor:
    """Return the (D + 1, C) weights of a logistic regression."""
    weights = torch.zeros(x.shape[1] + 1, classes, requires_grad=True)
    one = torch.cat([x, x.new_ones(len(x), 1)], 1)
    optimizer = torch.optim.LBFGS([weights], max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(one @ weights, y) + ridge * weights[:-1].square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return weights.detach()


def accuracy(weights: Tensor, x: Tensor, y: Tensor) -> float:
    """Return the share of words that the classifier names right."""
    answer = torch.cat([x, x.new_ones(len(x), 1)], 1) @ weights
    return (answer.argmax(1) == y).float().mean().item()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", type=Path, required=True, help="checkpoint, or folder of a saved net")
    parser.add_argument("--root", type=Path, required=True, help="cache folder of `talkhead preprocess`")
    parser.add_argument("--align", type=Path, required=True, help="folder of GRID's .align files")
    args = parser.parse_args()
    net = load_landmark(args.net).parts["net"].eval()
    data = MEADDataModule(args.root, modality="landmarks", num_frames=75, reference="first", split="clip")
    parts = {part: list(data.dataset(part, num_frames=75)) for part in ("train", "val", "test")}
    told = {part: [read_words(args.align / f"{name}.align") for name in data.names(part)] for part in parts}
    names = sorted({word for clip in told["train"] for _, _, word in clip})
    y = {
        part: torch.tensor([names.index(w) if w in names else -1 for clip in told[part] for _, _, w in clip])
        for part in parts
    }

    def features(part: str, tracks: list[Tensor]) -> Tensor:
        faces = [clip.reference_landmarks for clip in parts[part]]
        return torch.cat([describe(*each) for each in zip(tracks, faces, told[part], strict=True)])  # type: ignore[arg-type]

    true = {part: features(part, [clip.landmarks for clip in parts[part]]) for part in parts}
    mean, (_, _, basis) = true["train"].mean(0), torch.pca_lowrank(true["train"], 80)
    spread = ((true["train"] - mean) @ basis).std()

    def shorten(x: Tensor) -> Tensor:
        return (x - mean) @ basis / spread

    x = {part: shorten(true[part]) for part in parts}
    trained = {ridge: learn(x["train"], y["train"], len(names), ridge) for ridge in (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)}
    ridge = max(trained, key=lambda r: accuracy(trained[r], x["val"], y["val"]))
    _print_table(net, parts, features, shorten, trained[ridge], y["test"], len(names), ridge)


def _print_table(net, parts, features, shorten, weights, y, classes, ridge) -> None:  # type: ignore[no-untyped-def]
    test: list[Clip] = parts["test"]
    faces = [clip.reference_landmarks for clip in test]
    displacement = torch.stack([c.landmarks - c.reference_landmarks for c in parts["train"]]).mean(0)
    tracks = {
        "truth": [clip.landmarks for clip in test],
        "ours, `generate(idle=0)`": [net.generate(c.audio, c.reference_landmarks, NEUTRAL, idle=0) for c in test],
        "the training set's mean motion": [face + displacement for face in faces],
        "still": [face.expand(75, 68, 2) for face in faces],
        "the truth of another clip": [clip.landmarks for clip in [*test[1:], test[0]]],
    }
    common = torch.bincount(y[y >= 0], minlength=classes).max().item() / len(y)
    print(f"{len(y)} words of {len(test)} clips, {classes} classes, ridge {ridge:g}; the commonest word: {common:.3f}")
    print("| lips | words right |", "|---|---|", sep="\n")
    for name, track in tracks.items():
        print(f"| {name} | {accuracy(weights, shorten(features('test', track)), y):.3f} |")


if __name__ == "__main__":
    main()
