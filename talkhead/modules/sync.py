"""Training of the judge of synchrony: contrast with the same sound at other times and with other sentences."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanMetric

from talkhead.augmentation.speech import augment_speech
from talkhead.data.clip import Clip
from talkhead.face.points import MIRROR, points_at
from talkhead.modules.training_module import Stage, TrainingModule
from talkhead.nets.sync import RATE, SyncNet, lag_curve

SHIFTS = (-5, -2, 0, 3, 6)
"""Frames by which validation and test shift the lips; the net has to find them again."""


class SyncExpert(TrainingModule):
    """Trains a ``SyncNet`` with the InfoNCE loss in both directions.

    For the lips of a window the sound of the same window is right; wrong are the sound of the same clip two and more
    frames away, and of the batch's other clips. One frame away neither counts.

    Args:
        net: the net to train; None builds one with its own defaults.
        learning_rate: Adam's, at the start.
        augment: share of the clips whose sound is disturbed.

    Raises:
        ValueError: if ``augment`` is no share.
    """

    progress_bar = ("offset_accuracy",)

    def __init__(self, net: SyncNet | None = None, learning_rate: float = 1e-3, augment: float = 0.5) -> None:
        super().__init__()
        if not 0 <= augment <= 1:
            raise ValueError(f"augment must be a share of the clips, in [0, 1]; got {augment}")
        self.save_hyperparameters(ignore=["net"])
        self.net = SyncNet() if net is None else net
        self.watch(self._meters(), self._meters())

    def _meters(self) -> dict[str, Any]:
        return {name: MeanMetric() for name in ("loss", "offset_accuracy", "confidence")}

    def training_step(self, clip: Clip, batch_idx: int) -> Tensor:
        """Return the loss of one batch of windows."""
        landmarks, audio = _tracks(clip), clip.audio
        if self.hparams["augment"]:
            disturbed = torch.rand(len(audio), 1, device=audio.device) < self.hparams["augment"]
            audio = torch.where(disturbed, augment_speech(audio), audio)
        mirrored = torch.rand(len(landmarks), device=landmarks.device) < 0.5
        loss = self._loss(mirror(landmarks, mirrored), audio)
        self.log_loss(loss, len(landmarks))
        return loss

    def measure(self, batch: Clip, stage: Stage, first: bool) -> None:
        """Find known shifts again: right is the shift or a frame beside it."""
        landmarks = _tracks(batch)
        metric: Any = self.meters[stage]
        metric["loss"].update(self._loss(landmarks, batch.audio), len(landmarks))
        lips, sound = self.net(landmarks, batch.audio)
        for v, a in zip(lips, sound, strict=True):
            curve = lag_curve(v, a)
            metric["confidence"].update(curve.max() - curve.median())
            for shift in SHIFTS:
                late, heard = shifted(v, a, shift)
                found = lag_curve(late, heard)
                error = int(found.argmax()) - (len(found) - 1) // 2 - shift
                metric["offset_accuracy"].update(float(abs(error) <= 1))

    def predict_step(self, clip: Clip, batch_idx: int) -> tuple[Tensor, Tensor]:
        """Return the unit vectors of lips and sound, (B, T - 12, D) each."""
        return self.net(_tracks(clip), clip.audio)

    def _loss(self, landmarks: Tensor, audio: Tensor) -> Tensor:
        lips, sound = self.net(landmarks, audio)
        batch, windows, _ = lips.shape
        logits = lips.flatten(0, 1) @ sound.flatten(0, 1).mT * self.net.temperature.exp()
        index = torch.arange(batch * windows, device=logits.device)
        clip, time = index // windows, index % windows
        beside = (clip[:, None] == clip) & ((time[:, None] - time).abs() == 1)
        logits = logits.masked_fill(beside, -torch.inf)
        return (F.cross_entropy(logits, index) + F.cross_entropy(logits.mT, index)) / 2


def shifted(lips: Tensor, sound: Tensor, late: int) -> tuple[Tensor, Tensor]:
    """Let (N, D) lips come ``late`` frames behind their sound, by cutting both."""
    return (lips[: len(lips) - late], sound[late:]) if late >= 0 else (lips[-late:], sound[:late])


def mirror(landmarks: Tensor, which: Tensor) -> Tensor:
    """Mirror the tracks (B, T, 68, 2) that ``which`` (B,) names: a mouth speaks alike on both sides."""
    turned = points_at(landmarks, MIRROR) * landmarks.new_tensor([-1.0, 1.0])
    return torch.where(which[:, None, None, None], turned, landmarks)


def _tracks(clip: Clip) -> Tensor:
    if clip.landmarks is None:
        raise ValueError("synchrony is learnt from clips with landmarks; got sound alone (data.modality='audio')")
    if (clip.fps - RATE).abs().max() > 0.01:
        raise ValueError(
            f"synchrony is learnt at {RATE} frames per second; got {clip.fps.max().item():g}: "
            f"preprocess with --fps {RATE}"
        )
    return clip.landmarks
