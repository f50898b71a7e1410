"""Training of the emotion classifier: augmentation, class weights, calibration, and a confusion matrix in the logs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.functional.classification import multiclass_calibration_error, multiclass_confusion_matrix
from torchmetrics.utilities import dim_zero_cat

from talkhead.augmentation.spectrum import FrameAugmentation
from talkhead.data.clip import Clip
from talkhead.logs.pictures import picture_of
from talkhead.media.files import write_whole
from talkhead.modules.calibration import fit_temperature
from talkhead.modules.seen_emotions import count_everywhere
from talkhead.modules.training_module import Stage, TrainingModule
from talkhead.nets.conformer import ConformerClassifier

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Verdicts(Metric):
    """Collects logits and true classes over an epoch (and over processes).

    Args:
        classes: E.
    """

    full_state_update = False
    logits: list[Tensor]
    target: list[Tensor]

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.add_state("logits", default=[], dist_reduce_fx="cat")
        self.add_state("target", default=[], dist_reduce_fx="cat")
        self.reset()

    def reset(self) -> None:
        """Start anew, with nothing of the right shape: a process that saw no clip is asked for its own, too."""
        super().reset()
        self.logits.append(torch.zeros(0, self.classes, device=self.device))
        self.target.append(torch.zeros(0, dtype=torch.int64, device=self.device))

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Add (B, E) logits and (B,) classes."""
        self.logits.append(logits.detach().float())
        self.target.append(target)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Return (N, E) logits and (N,) classes."""
        return dim_zero_cat(self.logits), dim_zero_cat(self.target)


class EmotionClassifier(TrainingModule):
    """Trains a ``ConformerClassifier`` on any sound with an emotion label.

    Which emotions there are, and how rare each is, is read from the training data when fitting starts: the loss is
    weighted so that every emotion counts the same, and the network gives emotions that do not occur probability 0.
    After each validation the temperature is fitted to its logits, so every checkpoint is calibrated. Logged are loss,
    accuracy, UAR (unweighted average recall) and ECE (expected calibration error, at the current temperature); the
    last validation's and the test's confusion matrices are drawn beside the log.
    """

    part = "net", "emotion"
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
            augmentation: random changes of the training frames; None: ``FrameAugmentation`` with its defaults. It
                changes log-mel frames: with a pretrained encoder there is none.
            mixup: alpha of the Beta distribution that pairs of recordings are mixed by (Zhang et al. 2018); 0: never.
            label_smoothing: share of the target spread evenly over the emotions of the training data, in [0, 1).
            class_weighting: weigh each recording with the inverse of how often its emotion is seen.

        Raises:
            ValueError: if ``mixup`` is negative or ``label_smoothing`` is not in [0, 1), or if there is an augmentation
                beside a pretrained encoder.
        """
        super().__init__()
        if mixup < 0:
            raise ValueError(f"mixup must be >= 0; got {mixup}")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1); got {label_smoothing}")
        self.save_hyperparameters(ignore=["net", "augmentation"])
        self.net = net or ConformerClassifier()
        pretrained = self.net.config["encoder"] != "logmel"
        if pretrained and augmentation:
            raise ValueError("augmentation changes log-mel frames; leave it out with a pretrained encoder")
        self.augmentation = None if pretrained else augmentation or FrameAugmentation()
        self.emotions: list[str] = list(self.net.config["emotions"])
        self.register_buffer("class_weights", torch.ones(len(self.emotions)))
        self.watch(*({"verdicts": Verdicts(len(self.emotions))} for _ in range(2)))

    def forward(self, audio: Tensor, samples: Tensor | None = None) -> Tensor:
        """Return (B, E) calibrated probabilities of (B, S) waveforms of which (B,) ``samples`` are valid."""
        return self.net.probabilities(audio, samples)

    def on_train_start(self) -> None:
        """Read from the training data which emotions are seen, and how often."""
        counts = count_everywhere(self.trainer, self.emotions)
        present = [name for name, count in zip(self.emotions, counts.tolist(), strict=True) if count]
        if self.net.config["trained_on"] is None:
            self.net.set_trained_on(present)
        elif unknown := sorted(set(present) - set(self.net.trained_on)):
            raise ValueError(
                f"net.trained_on must name every emotion of the training data; it lacks {', '.join(unknown)}: "
                "add them, or leave trained_on out to have it read from the data"
            )
        if self.hparams["class_weighting"]:
            weights = counts.sum() / (torch.where(counts > 0, counts, 1) * len(present))
            self.class_weights.copy_(weights * (counts > 0))

    def training_step(self, batch: Clip, batch_idx: int) -> Tensor:
        """Return the loss of an augmented, mixed batch."""
        frames, lengths = self.net.features(batch.audio, batch.samples)
        return self.learn(frames, lengths, batch.emotion)

    def learn(self, frames: Tensor, lengths: Tensor, emotion: Tensor) -> Tensor:
        """Augment, mix and classify (B, T, F) frames, (B,) of them valid; log and return the () loss."""
        if self.augmentation is not None:
            frames, lengths = self.augmentation(frames, lengths)
        target = F.one_hot(emotion, len(self.emotions)).float()
        weight = self.class_weights[emotion]
        if self.hparams["mixup"]:
            frames, lengths, target = self._mix(frames, lengths, target)
        logits = self.net.classify(frames, lengths)
        loss = (weight * self._cross_entropy(logits, target)).mean()
        self.log_loss(loss, len(target), accuracy=(logits.argmax(-1) == target.argmax(-1)).float().mean())
        return loss

    def _mix(self, frames: Tensor, lengths: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Blend each recording with another one; its own share is at least a half, so its weight stays right."""
        share = torch.distributions.Beta(self.hparams["mixup"], self.hparams["mixup"]).sample((len(frames),)).to(frames)
        share = torch.maximum(share, 1 - share)
        other = torch.randperm(len(frames), device=frames.device)
        frames = torch.lerp(frames[other], frames, share[:, None, None])
        return frames, torch.maximum(lengths, lengths[other]), torch.lerp(target[other], target, share[:, None])

    def _cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        """(B, E) logits and probabilities -> (B,) smoothed cross-entropy over the emotions of the training data."""
        seen, smoothing = self.net.seen, self.hparams["label_smoothing"]
        target = target[:, seen] * (1 - smoothing) + smoothing / seen.sum()
        return -(target * logits[:, seen].log_softmax(-1)).sum(-1)

    def measure(self, batch: Clip, stage: Stage, first: bool) -> None:
        """Collect the logits of a batch."""
        self.meters[stage]["verdicts"].update(self.net(batch.audio, batch.samples), batch.emotion)  # type: ignore[index]

    def conclude(self, stage: Stage) -> None:
        """Log a stage's figures, draw its confusion matrix, and fit the temperature to the validation."""
        verdicts: Any = self.meters[stage]["verdicts"]  # type: ignore[index]
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
            "ece": multiclass_calibration_error(probabilities, target, len(self.emotions)),
        }
        self.log_dict({f"{stage}/{name}": value for name, value in figures.items()}, sync_dist=True)
        if self.trainer.sanity_checking:
            return
        name = f"confusion_matrix_{stage}"
        self.show(
            f"{stage}/confusion_matrix", lambda: picture_of(plot_confusion(confusion, self.emotions)), f"{name}.png"
        )
        if stage == "val":
            self.net.temperature.copy_(fit_temperature(logits, target))
            self.log("val/temperature", self.net.temperature, sync_dist=True)

    def predict_step(self, batch: Clip, batch_idx: int) -> Tensor:
        """Return (B, E) calibrated probabilities."""
        return self(batch.audio, batch.samples)


def average_recall(confusion: Tensor) -> Tensor:
    """Return the unweighted average recall (UAR): the mean, over the classes that occur, of the share recognised.

    torchmetrics' macro average is the same where every class occurs; it counts one that is predicted, and does not
    occur, as missed.

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
    figure = plot_confusion(confusion, emotions)
    write_whole(path, lambda file: figure.savefig(file, format="png", dpi=120))
