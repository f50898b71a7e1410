"""Teach a landmark net the lips of further people, few clips each, without losing its own speaker.

    python examples/teach_strangers.py --root CACHE --others CACHE_OF_GRID_OTHER --output taught
    python examples/teach_strangers.py ... --leave-out s2 s4 s6 s8
    python examples/measure_strangers.py --net taught --speakers s2 s4 s6 s8 ...

A batch holds clips of the net's own speaker and of other people, each person as likely as any other. What makes
fourteen clips enough to learn from is what is not asked of them. Of the others only lips and jaw count, and not how
they are held on average, which is everyone's own. Their displacements start from the reference with its mouth closed,
as in `generate`, because most of them begin with open lips. Their narrow openings are widened to what a detector sees
of the net's own speaker (`widen_narrow`), which `generate` takes back (`closing`). The weights are averaged over the
run, and mixed with those before it (`--share`). Two minutes of one CPU core.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from talkhead.augmentation.speech import augment_speech
from talkhead.data.clip import Clip, emotion_probabilities
from talkhead.data.datamodule import MEADDataModule
from talkhead.data.dataset import ClipDataset
from talkhead.face.articulation import widen_narrow
from talkhead.face.frame import face_frame, to_face
from talkhead.face.mouth_gate import close_mouth
from talkhead.face.points import LOWER_JAW, MOUTH
from talkhead.modules.landmark import landmark_loss
from talkhead.nets.landmark import LandmarkNet
from talkhead.pipeline.stages import ANYONE
from talkhead.speaker.folder import BUNDLED, save_part

OWN, OTHERS = 5, 3
Example = tuple[Tensor, Tensor, Tensor]


def example(clip: Clip, own: bool) -> Example:
    """Return a clip's (S,) sound, its (T, 68, 2) displacements in face sizes, and which of the (68, 1) points count."""
    reference, track = clip.reference_landmarks, clip.landmarks
    assert reference is not None and track is not None
    rest = close_mouth(reference)
    frame = face_frame(rest)
    if not own:
        track = widen_narrow(track, rest, ANYONE["closing"])
    counts = torch.full((68, 1), float(own))
    counts[MOUTH] = counts[LOWER_JAW] = 1.0
    moved = to_face(track, (frame[0].unsqueeze(0), frame[1].unsqueeze(0))) - to_face(rest, frame)
    return clip.audio.float(), moved, counts


def batch(own: list[Example], others: dict[str, list[Example]]) -> tuple[Tensor, ...]:
    """Draw clips: of the net's own speaker, and of other people whoever has how many."""
    people = list(others.values())
    drawn = [own[int(torch.randint(len(own), ()))] for _ in range(OWN)]
    for _ in range(OTHERS):
        his = people[int(torch.randint(len(people), ()))]
        drawn.append(his[int(torch.randint(len(his), ()))])
    return tuple(torch.stack(parts) for parts in zip(*drawn, strict=True))


def teach(net: LandmarkNet, own: list[Example], others: dict[str, list[Example]], steps: int, rate: float) -> Any:
    """Train for some steps and return the averaged weights."""
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    mean = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.98), use_buffers=True)
    emotion = emotion_probabilities("neutral").expand(OWN + OTHERS, -1)
    net.train()
    for step in range(steps):
        audio, wanted, counts = batch(own, others)
        audio = torch.where(torch.rand(len(audio), 1) < 0.5, augment_speech(audio), audio)
        error = net.displacements(audio, emotion, wanted.shape[1]) - wanted
        error[OWN:] = error[OWN:] - error[OWN:].mean(1, keepdim=True).detach()
        error = error * counts.unsqueeze(1)
        loss = landmark_loss(
            error, torch.zeros_like(error), distance="euclidean", velocity_weight=1.0, opening_weight=0.1
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        mean.update_parameters(net)
        if step % 20 == 0:
            print(f"step {step} of {steps}: loss {loss.item():.2f}", flush=True)
    return mean.module.state_dict()


def main() -> None:
    """Teach, and save the net."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", type=Path, help="folder of a saved net; default: the bundled speaker's")
    parser.add_argument("--root", type=Path, required=True, help="cache of the net's own speaker: its training part")
    parser.add_argument("--others", type=Path, required=True, help="cache of other people, 75 frames a clip")
    parser.add_argument("--leave-out", nargs="+", default=[], help="people not to learn from, for measuring")
    parser.add_argument("--output", type=Path, required=True, help="folder for the net")
    parser.add_argument("--steps", type=int, default=200, help="(%(default)s)")
    parser.add_argument("--rate", type=float, default=5e-4, help="Adam's, at the start (%(default)s)")
    parser.add_argument("--share", type=float, default=1.0, help="of the change that is kept (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    net = LandmarkNet.from_pretrained(args.net or BUNDLED / "landmark")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    data = MEADDataModule(args.root, modality="landmarks", num_frames=75, reference="first", split="clip")
    own = [example(clip, own=True) for clip in data.dataset("train", num_frames=75)]
    names = [name for part in ("train", "val", "test") for name in MEADDataModule(args.others).names(part)]
    others: dict[str, list[Example]] = {}
    for name in sorted(names):
        clips = ClipDataset(args.others, [name], modality="landmarks", reference="first")
        whose = str(clips.entries[0]["identity"])
        if whose not in args.leave_out:
            others.setdefault(whose, []).append(example(clips[0], own=False))
    after = teach(net, own, others, args.steps, args.rate)
    mixed = {name: torch.lerp(before[name], v, args.share) if v.is_floating_point() else v for name, v in after.items()}
    net.load_state_dict(mixed)
    save_part(net.eval(), args.output)
    print(f"taught on {len(own)} clips and on {sum(map(len, others.values()))} of {', '.join(others)}: {args.output}")


if __name__ == "__main__":
    main()
