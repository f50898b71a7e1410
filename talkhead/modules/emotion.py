"""Training of the emotion classifier: augmentation, class weights, calibration, and a confusion matrix in the logs."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.functional.classification import multiclass_confusion_matrix
from torchmetrics.utilities import dim_zero_cat

from talkhead.data.clip import SAMPLE_RATE, Clip
from talkhead.modules.optimizers import adam_with_cosine
from talkhead.nets.conformer import ConformerClassifier
from talkhead.nets.logmel import length_mask
from talkhead.ops.calibration import expected_calibration_error, fit_temperature

if TYPE_CHECKING:
    from matplotlib.figure import Figure


MEL_TOP = math.log(1 + SAMPLE_RATE / 2 / 700)
"""The mel scale's upper end, in units in which it is ln(1 + Hz / 700)."""


class FrameAugmentation(nn.Module):
    """Another speaker, another room, another microphone: random changes of log-mel frames, in training only.

    Each recording is played at another tape speed (tempo and pitch together), and with a tempo and a vocal-tract length
    of its own, through a smooth random equaliser; coloured noise is added in the power domain; and it gets
    SpecAugment's stripes (Park et al. 2019).
    """

    def __init__(
        self,
        tape_speed: float = 0.12,
        time_warp: float = 0.05,
        frequency_warp: float = 0.05,
        equalizer: float = 0.3,
        noise: float = 0.3,
        masks: int = 1,
        mask_bins: int = 8,
        mask_frames: int = 25,
    ):
        """Set how strong the changes are; 0 switches one off.

        Args:
            tape_speed: largest change of ln speed and ln pitch together.
            time_warp: largest further change of ln speed alone.
            frequency_warp: largest further change of ln frequency alone.
            equalizer: standard deviation of the equaliser's five gains, in nepers of power (1 is 4.3 dB).
            noise: share of recordings that get noise, 9 to 37 dB below the mean power of the speech.
            masks: number of stripes in time, and as many in frequency.
            mask_bins: widest stripe in mel bins.
            mask_frames: widest stripe in frames of 10 ms.
        """
        super().__init__()
        self.tape_speed, self.time_warp, self.frequency_warp = tape_speed, time_warp, frequency_warp
        self.equalizer, self.noise = equalizer, noise
        self.masks, self.mask_bins, self.mask_frames = masks, mask_bins, mask_frames

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Change (B, T, 80) frames of which (B,) are valid; the speed changes T and the lengths."""
        if not self.training:
            return frames, lengths
        frames, lengths = self._stretch(frames, lengths)
        frames = frames + self.equalizer / 4 * _smooth_noise(frames)
        frames = self._stripes(self._add_noise(frames), lengths)
        return frames * length_mask(lengths, frames.shape[1])[..., None], lengths

    def _stretch(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Resample time and frequency of each recording by factors of its own, bilinearly."""
        batch, total, bins = frames.shape
        device = frames.device
        tape, tempo, pitch = torch.rand(3, batch, device=device) * 2 - 1
        speed = (self.tape_speed * tape + self.time_warp * tempo).exp()
        scale = (-self.tape_speed * tape + self.frequency_warp * pitch).exp()
        lengths = (lengths / speed).long().clamp(min=1)
        size = int(lengths.max())
        time = torch.arange(size, device=device) * speed[:, None] / max(total - 1, 1) * 2 - 1
        # Bin i lies at (i + 1) / (bins + 1) of the mel scale, and frequencies are scaled in Hz.
        mel = torch.arange(1, bins + 1, device=device) * MEL_TOP / (bins + 1)
        place = (1 + scale[:, None] * (mel.exp() - 1)).log() / MEL_TOP * (bins + 1) - 1
        frequency = place / (bins - 1) * 2 - 1
        grid = torch.stack(
            [frequency[:, None, :].expand(batch, size, bins), time[:, :, None].expand(batch, size, bins)], dim=-1
        )
        warped = F.grid_sample(frames[:, None], grid, align_corners=True, padding_mode="border")[:, 0]
        return warped, lengths

    def _add_noise(self, frames: Tensor) -> Tensor:
        """Add noise of random level and colour in the power domain (``LogMel`` says how frames encode power)."""
        batch, device = len(frames), frames.device
        chosen = torch.rand(batch, 1, 1, device=device) < self.noise
        level = torch.rand(batch, 1, 1, device=device) * 6.5 - 8.5
        draw = -torch.rand_like(frames).clamp(min=1e-6).log()  # the power of Gaussian noise in one bin
        noise = (level + _smooth_noise(frames)).exp() * draw * chosen
        return (((4 * frames - 4).exp() + noise).log() + 4) / 4

    def _stripes(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Set random stripes of time and of frequency to 0, about the frames' mean."""
        bins = torch.full_like(lengths, frames.shape[2])
        for _ in range(self.masks):
            frames = frames * ~_stripe(lengths, frames.shape[1], self.mask_frames)[:, :, None]
            frames = frames * ~_stripe(bins, frames.shape[2], self.mask_bins)[:, None, :]
        return frames


class Verdicts(Metric):
    """Collects logits and true classes over an epoch (and over processes)."""

    logits: list[Tensor]
    target: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("logits", default=[], dist_reduce_fx="cat")
        self.add_state("target", default=[], dist_reduce_fx="cat")

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Add (B, E) logits and (B,) classes."""
        self.logits.append(logits.detach().float())
        self.target.append(target)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Return (N, E) logits and (N,) classes."""
        return dim_zero_cat(self.logits), dim_zero_cat(self.target)


class EmotionClassifier(LightningModule):
    """Trains a ``ConformerClassifier`` on any sound with an emotion label.

    Which emotions there are, and how rare each is, is read from the training data when fitting starts: the loss is
    weighted so that every emotion counts the same, and the network gives emotions that do not occur probability 0.
    After each validation the temperature is fitted to its logits, so every checkpoint is calibrated. Logged are loss,
    accuracy, UAR (unweighted average recall) and ECE (expected calibration error, at the current temperature); the
    last validation's and the test's confusion matrices are drawn beside the log.
    """

    class_weights: Tensor

    def __init__(
        self,
        net: ConformerClassifier | None = None,
        learning_rate: float = 1e-4,
        augmentation: FrameAugmentation | None = None,
        mixup: float = 0.3,
        label_smoothing: float = 0.1,
        class_weighting: bool = True,
    ):
        """Set up the training.

        Args:
            net: the network; None: size S with the library's emotions.
            learning_rate: Adam's initial learning rate.
            augmentation: random changes of the training frames; None: ``FrameAugmentation`` with its defaults.
            mixup: alpha of the Beta distribution that pairs of recordings are mixed by (Zhang et al. 2018); 0: never.
            label_smoothing: share of the target spread evenly over the emotions of the training data, in [0, 1).
            class_weighting: weigh each recording with the inverse frequency of its emotion.

        Raises:
            ValueError: if ``mixup`` is negative or ``label_smoothing`` is not in [0, 1).
        """
        super().__init__()
        if mixup < 0:
            raise ValueError(f"mixup must be >= 0; got {mixup}")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1); got {label_smoothing}")
        self.save_hyperparameters(ignore=["net", "augmentation"])
        self.net = net or ConformerClassifier()
        self.augmentation = augmentation or FrameAugmentation()
        self.learning_rate, self.mixup = learning_rate, mixup
        self.label_smoothing, self.class_weighting = label_smoothing, class_weighting
        self.emotions: list[str] = list(self.net.config["emotions"])
        self.register_buffer("class_weights", torch.ones(len(self.emotions)))
        self.val_verdicts, self.test_verdicts = Verdicts(), Verdicts()

    def forward(self, audio: Tensor, samples: Tensor | None = None) -> Tensor:
        """Return (B, E) calibrated probabilities of (B, S) waveforms of which (B,) ``samples`` are valid."""
        return self.net.probabilities(audio, samples)

    def configure_optimizers(self) -> Any:
        """Return Adam with cosine annealing."""
        return adam_with_cosine(self, self.learning_rate)

    def on_train_start(self) -> None:
        """Read from the training data which emotions occur and how often."""
        counts = count_emotions(self.trainer.train_dataloader or [], self.emotions)
        present = [name for name, count in zip(self.emotions, counts.tolist(), strict=True) if count]
        if self.net.config["trained_on"] is None:
            self.net.set_trained_on(present)
        elif unknown := sorted(set(present) - set(self.net.trained_on)):
            raise ValueError(
                f"net.trained_on must name every emotion of the training data; it lacks {', '.join(unknown)}: "
                "add them, or leave trained_on out to have it read from the data"
            )
        if self.class_weighting:
            weights = counts.sum() / (counts.clamp(min=1) * len(present))
            self.class_weights.copy_(weights * (counts > 0))

    def training_step(self, batch: Clip, batch_idx: int) -> Tensor:
        """Return the loss of an augmented, mixed batch."""
        frames, lengths = self.augmentation(*self.net.features(batch.audio, batch.samples))
        target = F.one_hot(batch.emotion, len(self.emotions)).float()
        weight = self.class_weights[batch.emotion]
        if self.mixup:
            frames, lengths, target = self._mix(frames, lengths, target)
        logits = self.net.classify(frames, lengths)
        loss = (weight * self._cross_entropy(logits, target)).mean()
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(target))
        accuracy = (logits.argmax(-1) == target.argmax(-1)).float().mean()
        self.log("train/accuracy", accuracy, on_step=False, on_epoch=True, batch_size=len(target))
        return loss

    def _mix(self, frames: Tensor, lengths: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Blend each recording with another one; its own share is at least a half, so its weight stays right."""
        share = torch.distributions.Beta(self.mixup, self.mixup).sample((len(frames),)).to(frames)
        share = torch.maximum(share, 1 - share)
        other = torch.randperm(len(frames), device=frames.device)
        frames = torch.lerp(frames[other], frames, share[:, None, None])
        return frames, torch.maximum(lengths, lengths[other]), torch.lerp(target[other], target, share[:, None])

    def _cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        """(B, E) logits and probabilities -> (B,) smoothed cross-entropy over the emotions of the training data."""
        seen = self.net.seen
        target = target[:, seen] * (1 - self.label_smoothing) + self.label_smoothing / seen.sum()
        return -(target * logits[:, seen].log_softmax(-1)).sum(-1)

    def validation_step(self, batch: Clip, batch_idx: int) -> None:
        """Collect the logits of a validation batch."""
        self.val_verdicts.update(self.net(batch.audio, batch.samples), batch.emotion)

    def on_validation_epoch_end(self) -> None:
        """Log how good the validation was, then fit the temperature to it."""
        logits, target = self._conclude("val", self.val_verdicts)
        if not self.trainer.sanity_checking:
            self.net.temperature.copy_(fit_temperature(logits, target))
            self.log("val/temperature", self.net.temperature)

    def test_step(self, batch: Clip, batch_idx: int) -> None:
        """Collect the logits of a test batch."""
        self.test_verdicts.update(self.net(batch.audio, batch.samples), batch.emotion)

    def on_test_epoch_end(self) -> None:
        """Log how good the test was."""
        self._conclude("test", self.test_verdicts)

    def predict_step(self, batch: Clip, batch_idx: int) -> Tensor:
        """Return (B, E) calibrated probabilities."""
        return self(batch.audio, batch.samples)

    def _conclude(self, stage: str, verdicts: Verdicts) -> tuple[Tensor, Tensor]:
        """Log a stage's figures and draw its confusion matrix."""
        logits, target = verdicts.compute()
        target = target.reshape(-1)  # torchmetrics makes a scalar of a single recording's
        verdicts.reset()
        probabilities = (logits / self.net.temperature).softmax(-1)
        confusion = multiclass_confusion_matrix(logits, target, num_classes=len(self.emotions))
        own = probabilities.gather(1, target[:, None])
        figures = {
            # An emotion absent from training costs the loss of probability 1e-7, not infinity.
            "loss": -own.clamp(min=1e-7).log().mean(),
            "accuracy": (logits.argmax(-1) == target).float().mean(),
            "uar": average_recall(confusion),
            "ece": expected_calibration_error(probabilities, target),
        }
        self.log_dict({f"{stage}/{name}": value for name, value in figures.items()})
        if self.trainer.log_dir and self.trainer.is_global_zero and not self.trainer.sanity_checking:
            save_confusion(confusion, self.emotions, Path(self.trainer.log_dir) / f"confusion_matrix_{stage}.png")
        return logits, target


def average_recall(confusion: Tensor) -> Tensor:
    """Return the unweighted average recall (UAR): the mean, over the classes that occur, of the share recognised.

    Args:
        confusion: (E, E) counts, rows are true classes, columns predictions.

    Returns:
        () float32 in [0, 1].

    Example:
        >>> round(average_recall(torch.tensor([[9, 1], [1, 1]])).item(), 2)  # (0.9 + 0.5) / 2
        0.7
    """
    count = confusion.sum(1)
    return (confusion.diagonal()[count > 0] / count[count > 0]).mean()


def count_emotions(loader: Iterable[Clip], emotions: Sequence[str]) -> Tensor:
    """Count how often each emotion occurs in training data, from the cache's manifest where there is one.

    Args:
        loader: batches of ``Clip``.
        emotions: the classes' names.

    Returns:
        (E,) int64 counts.

    Raises:
        ValueError: if a recording's emotion is not among the classes.
    """
    entries = getattr(getattr(loader, "dataset", None), "entries", None)
    if entries is None:
        return sum((torch.bincount(b.emotion.cpu(), minlength=len(emotions)) for b in loader), torch.zeros(1).long())
    names = [entry["emotion"] for entry in entries]
    if unknown := sorted(set(names) - set(emotions)):
        raise ValueError(f"net.emotions must hold the data's emotions; it lacks {', '.join(unknown)}: add them")
    return torch.tensor([names.count(name) for name in emotions])


def plot_confusion(confusion: Tensor, emotions: Sequence[str]) -> Figure:
    """Draw a confusion matrix: the share of each true emotion (row) that was heard as each emotion (column).

    Args:
        confusion: (E, E) counts, rows are true classes.
        emotions: the classes' names; those that neither occur nor are predicted are left out.

    Returns:
        The figure, with the counts written in.
    """
    from matplotlib.figure import Figure

    kept = [i for i in range(len(emotions)) if confusion[i].sum() + confusion[:, i].sum() > 0]
    count = confusion[kept][:, kept].cpu()
    share = count / count.sum(1, keepdim=True).clamp(min=1)
    names = [emotions[i] for i in kept]
    size = 2.5 + 0.6 * len(names)
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(share.numpy(), vmin=0, vmax=1, cmap="Blues")
    axes.set(xlabel="heard as", ylabel="true", title=f"unweighted average recall {average_recall(confusion):.3f}")
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    for row in range(len(names)):
        for column in range(len(names)):
            color = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, str(int(count[row, column])), ha="center", va="center", color=color)
    return figure


def save_confusion(confusion: Tensor, emotions: Sequence[str], path: Path) -> None:
    """Draw a confusion matrix into a PNG, whole or not at all.

    Args:
        confusion: (E, E) counts, rows are true classes.
        emotions: the classes' names.
        path: the PNG to write.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".partial.png")
    plot_confusion(confusion, emotions).savefig(temporary, dpi=120)
    os.replace(temporary, path)


def _smooth_noise(frames: Tensor) -> Tensor:
    """Return (B, 1, M): for each recording a random curve over frequency through five standard normal knots."""
    knots = torch.randn(len(frames), 1, 5, device=frames.device)
    return F.interpolate(knots, size=frames.shape[2], mode="linear", align_corners=True)


def _stripe(lengths: Tensor, size: int, widest: int) -> Tensor:
    """Return (B, size) bool, True in one random stripe of at most ``widest`` places, within each row's length."""
    width = (
        torch.rand(len(lengths), 1, device=lengths.device)
        * torch.minimum(lengths / 2, lengths.new_tensor(widest))[:, None]
    )
    start = torch.rand(len(lengths), 1, device=lengths.device) * (lengths[:, None] - width)
    place = torch.arange(size, device=lengths.device)
    return (place >= start) & (place < start + width)
