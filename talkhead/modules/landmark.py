"""Training of the landmark generator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import MeanMetric, Metric

from talkhead.augmentation.speech import augment_speech, change_speed
from talkhead.data.clip import Clip, emotion_probabilities
from talkhead.face.frame import face_frame, to_face
from talkhead.face.points import LOWER_INNER_LIP, MOUTH, UPPER_INNER_LIP, points_at
from talkhead.logs.pictures import landmark_plot
from talkhead.metrics import LandmarkDistance, OpeningCorrelation, OpeningVarianceRatio
from talkhead.modules.training_module import Stage, TrainingModule
from talkhead.nets.landmark import LandmarkNet


def landmark_loss(
    predicted: Tensor,
    target: Tensor,
    *,
    mouth_weight: float = 0.0,
    velocity_weight: float = 0.0,
    opening_weight: float = 0.0,
    distance: str = "squared",
) -> Tensor:
    """Compare two motions, each point in each frame.

    With e the error of a point in percent of the face's size (the root mean square distance of its points from their
    mean), the loss is the weighted mean of |e|^2 (``squared``: the paper's MSE, times two) or of |e| (``euclidean``:
    what the landmark distance measures; its minimum is the median motion, which keeps more of the movement), plus the
    same of e_t+1 - e_t, plus the squared error of the mouth's opening.

    Args:
        predicted: (B, T, 68, 2) in face sizes.
        target: (B, T, 68, 2) in face sizes; frames with NaN (no face found) are left out.
        mouth_weight: the extra weight of the mouth's points, 1 + mouth_weight beside the others' 1; 0: none.
        velocity_weight: weight of the velocity term.
        opening_weight: weight of the opening term.
        distance: ``squared`` or ``euclidean``.

    Returns:
        () loss.
    """
    seen = target.isfinite().all(-1).all(-1)
    error = 100 * torch.where(seen[..., None, None], predicted - target, 0.0)
    weight = torch.ones(68, device=error.device)
    weight[MOUTH] += mouth_weight
    weight = weight / weight.mean()
    loss = _mean_size(error, weight, seen, distance)
    if velocity_weight:
        step = error[:, 1:] - error[:, :-1]
        loss = loss + velocity_weight * _mean_size(step, weight, seen[:, 1:] & seen[:, :-1], distance)
    if opening_weight:
        gap = (points_at(error, LOWER_INNER_LIP) - points_at(error, UPPER_INNER_LIP))[..., 1].mean(-1)
        loss = loss + opening_weight * (gap.square() * seen).sum() / seen.sum().clamp_min(1)
    return loss


def _mean_size(error: Tensor, weight: Tensor, seen: Tensor, distance: str) -> Tensor:
    size = error.square().sum(-1)
    if distance == "euclidean":
        # A hundredth of a percent keeps the root's slope finite at zero.
        size = (size + 1e-4).sqrt()
    return ((size * weight).mean(-1) * seen).sum() / seen.sum().clamp_min(1)


class LandmarkGenerator(TrainingModule):
    """Trains a ``LandmarkNet``: position and velocity losses, logged landmark distances.

    Validation and test measure the net as the pipeline uses it, blind to the portrait. Where it may look at portraits
    in training, ``M-LD_shown`` and the like are measured as well: what it knows of the speakers it was trained on.
    The defaults are the paper's: plain MSE, Adam with 1e-4, no augmentation. Loss units: see ``landmark_loss``.

    Args:
        net: the net to train; None builds one with its own defaults.
        learning_rate: Adam's, at the start.
        mouth_weight: see ``landmark_loss``.
        velocity_weight: see ``landmark_loss``.
        opening_weight: see ``landmark_loss``.
        distance: ``squared`` or ``euclidean``; see ``landmark_loss``.
        augment: share of the training clips whose sound is disturbed with noise, reverberation, channel and gain.
        speed: largest relative change of speed in training, 0 for none; sound and motion change together.
        portrait: probability that the net may look at a training clip's portrait (see ``nets/landmark.py``). 0 never
            does: the motion is independent of the face, and layers that look are left as they are.
        size: width in px of the square frame that the landmarks belong to; the logged distances are in px of a 256-px
            frame.

    Raises:
        ValueError: if ``distance`` is unknown, a weight is negative, or the net was built without a view of portraits
            that it is to look at.
    """

    progress_bar = ("loss", "M-LD")
    part = "net", "landmark"
    conditioned = "net"

    def __init__(
        self,
        net: LandmarkNet | None = None,
        learning_rate: float = 1e-4,
        mouth_weight: float = 0.0,
        velocity_weight: float = 0.0,
        opening_weight: float = 0.0,
        distance: str = "squared",
        augment: float = 0.0,
        speed: float = 0.0,
        portrait: float = 0.0,
        size: int = 128,
    ) -> None:
        super().__init__()
        if distance not in ("squared", "euclidean"):
            raise ValueError(f"distance must be 'squared' or 'euclidean'; got {distance!r}")
        if not 0 <= portrait <= 1:
            raise ValueError(f"portrait must be a probability; got {portrait}")
        if not 0 <= augment <= 1:
            raise ValueError(f"augment must be a share of the clips, in [0, 1]; got {augment}")
        if min(mouth_weight, velocity_weight, opening_weight) < 0 or not 0 <= speed < 0.5:
            raise ValueError("weights must be >= 0 and speed in [0, 0.5)")
        self.save_hyperparameters(ignore=["net"])
        self.net = LandmarkNet() if net is None else net
        if portrait and self.net.config.portrait_view == "none":
            raise ValueError(f"portrait={portrait} needs a net that can look: build it with portrait_view='summary'")
        if not portrait:
            self.net.stop_looking()
        self.watch(self._meters(), self._meters())
        self._drawn: tuple[Tensor, Tensor] | None = None

    def _meters(self) -> dict[str, Metric]:
        """Return what a stage of validation or test measures."""
        size, shown = self.hparams["size"], _distances(self.hparams["size"]) if self.hparams["portrait"] else {}
        return {"loss": MeanMetric(), **_distances(size), **{f"{name}_shown": m for name, m in shown.items()}}

    def forward(self, clip: Clip, shown: bool = False) -> Tensor:
        """Predict a batch's landmarks, (B, T, 68, 2) px, from its sound, its portrait's landmarks and its emotion.

        Args:
            clip: the batch.
            shown: let the net look at the portrait.
        """
        landmarks, reference_landmarks = _landmarks(clip)
        emotion, size = emotion_probabilities(clip.emotion), self.hparams["size"] if shown else None
        return self.net(clip.audio, reference_landmarks, emotion, landmarks.shape[1], size=size)

    def training_step(self, clip: Clip, batch_idx: int) -> Tensor:
        """Return the loss of one batch of windows."""
        landmarks, reference_landmarks = _landmarks(clip)
        audio, augment, speed = clip.audio, self.hparams["augment"], self.hparams["speed"]
        if augment:
            disturbed = torch.rand(len(audio), 1, device=audio.device) < augment
            audio = torch.where(disturbed, augment_speech(audio), audio)
        if speed:
            audio = change_speed(audio, 1 + speed * (2 * torch.rand(()).item() - 1))
        shown, known = None, None
        if self.hparams["portrait"]:
            shown = self.net.describe(reference_landmarks, self.hparams["size"])
            known = torch.rand(len(shown), device=shown.device) < self.hparams["portrait"]
        emotion = emotion_probabilities(clip.emotion)
        # Played faster, the same number of frames holds faster motion: the target stays.
        predicted = self.net.displacements(audio, emotion, landmarks.shape[1], portrait=shown, known=known)
        loss = self._loss(predicted, landmarks, reference_landmarks)
        self.log_loss(loss, len(landmarks))
        return loss

    def measure(self, batch: Clip, stage: Stage, first: bool) -> None:
        """Compare a batch's landmarks with the truth: blind, and shown the portraits where the net learns to look."""
        landmarks, reference_landmarks = _landmarks(batch)
        predicted = self(batch)
        pair = {"blind": (predicted, landmarks)}
        if self.hparams["portrait"]:
            pair["shown"] = (self(batch, shown=True), landmarks)
        if first:
            self._drawn = landmarks[0], pair.get("shown", pair["blind"])[0][0]
        frame = face_frame(reference_landmarks)
        moved = to_face(predicted, (frame[0].unsqueeze(1), frame[1].unsqueeze(1)))
        moved = moved - to_face(reference_landmarks, frame).unsqueeze(1)
        metric: Any
        for name, metric in self.meters[stage].items():  # type: ignore[union-attr,operator]
            if name == "loss":
                metric.update(self._loss(moved, landmarks, reference_landmarks), len(landmarks))
            else:
                metric.update(*pair["shown" if name.endswith("_shown") else "blind"])

    def conclude(self, stage: Stage) -> None:
        """Log the distances, and show a clip's landmarks over the true ones."""
        super().conclude(stage)
        drawn, self._drawn = self._drawn, None
        name = f"landmarks/{stage}_step_{self.global_step:07d}.png"
        self.show(f"{stage}/landmarks", lambda: landmark_plot(*drawn) if drawn else None, name)

    def predict_step(self, clip: Clip, batch_idx: int) -> Tensor:
        """Return (B, T, 68, 2) px."""
        return self(clip)

    def _loss(self, predicted: Tensor, landmarks: Tensor, reference_landmarks: Tensor) -> Tensor:
        """Compare (B, T, 68, 2) displacements in face sizes with the truth in px."""
        centre, axes = face_frame(reference_landmarks)
        truth = to_face(landmarks, (centre.unsqueeze(1), axes.unsqueeze(1)))
        target = truth - to_face(reference_landmarks, (centre, axes)).unsqueeze(1)
        weights = {name: self.hparams[name] for name in ("mouth_weight", "velocity_weight", "opening_weight")}
        return landmark_loss(predicted, target, distance=self.hparams["distance"], **weights)


def _distances(size: int) -> dict[str, Metric]:
    return {
        "M-LD": LandmarkDistance("mouth", "none", "px256", size),
        "F-LD": LandmarkDistance("face", "none", "px256", size),
        "M-LD_centred": LandmarkDistance("mouth", "mean", "px256", size),
        "F-LD_centred": LandmarkDistance("face", "mean", "px256", size),
        "opening_correlation": OpeningCorrelation(),
        "opening_variance_ratio": OpeningVarianceRatio(),
    }


def _landmarks(clip: Clip) -> tuple[Tensor, Tensor]:
    """Return a batch's landmarks (B, T, 68, 2) and its reference's (B, 68, 2), px."""
    if clip.landmarks is None or clip.reference_landmarks is None:
        raise ValueError(
            "the landmark generator trains on clips with landmarks; got sound alone (data.modality='audio')"
        )
    return clip.landmarks, clip.reference_landmarks
