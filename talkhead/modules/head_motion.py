"""Training of the head's motion: flow matching from coloured noise, and the blinks' intensity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from talkhead.data.clip import Clip, emotion_probabilities
from talkhead.face.head_state import STATE, close_lids, move_head, read_head, still_head
from talkhead.face.points import EYES
from talkhead.metrics import BlinkRate, BrowDynamics, HeadMotion, brow_dynamics, eye_opening
from talkhead.metrics.blinks import blink_moments
from talkhead.modules.training_module import Stage, TrainingModule
from talkhead.nets.head_motion import BLINK_AFTER, BLINK_BEFORE, RATE, HeadMotionNet
from talkhead.ops.smooth_noise import SCALES, SOURCE_REACH, structure_function
from talkhead.speech.level import speech_level
from talkhead.speech.prosody import prosody

_LAGS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 40)


class HeadMotionGenerator(TrainingModule):
    """Trains a ``HeadMotionNet`` on whole clips at 25 frames per second.

    Before the first epoch it measures on the training clips what is no weight: the motion's spectrum, its size, the
    course of a blink. After the last epoch it draws motion for the training clips and scales each part of the state,
    and the rate of the blinks, so that it moves within clips as much as they do, brows as fast. In all of this each
    speaker counts equally, however many clips there are of him: one man's habits are not everybody's.

    Args:
        net: the net to train; None builds one with its own defaults.
        learning_rate: Adam's, at the start.
        candidates: sources drawn per clip, of which the nearest is taken: straighter flows need fewer steps (minibatch
            optimal transport, Tong et al. 2024).
        hazard_weight: weight of the blinks' likelihood.
        size: width in px of the square frame that the landmarks belong to.

    Raises:
        ValueError: if ``candidates`` is below 1.
    """

    part = "net", "head"

    def __init__(
        self,
        net: HeadMotionNet | None = None,
        learning_rate: float = 2e-3,
        candidates: int = 8,
        hazard_weight: float = 1.0,
        size: int = 128,
    ) -> None:
        super().__init__()
        if candidates < 1:
            raise ValueError(f"candidates must be at least 1; got {candidates}")
        self.save_hyperparameters(ignore=["net"])
        self.net = HeadMotionNet() if net is None else net
        self.watch(self._meters(), self._meters())

    def _meters(self) -> dict[str, Any]:
        kinds: dict[str, Callable[[], Any]] = {
            "brow": BrowDynamics,
            "blinks": BlinkRate,
            "roll": HeadMotion,
            "shift": lambda: HeadMotion("shift"),
        }
        return {"loss": MeanMetric()} | {
            f"{name}_{whose}": make() for name, make in kinds.items() for whose in ("drawn", "true")
        }

    def on_fit_start(self) -> None:
        """Measure the training clips, unless a checkpoint brought their measures along."""
        if float(self.net.spread.sum()) == 0:
            self._measure_clips()

    def on_train_epoch_end(self) -> None:
        """At the end of the run, whatever limits it, let the net move as much as the training clips."""
        trainer = self.trainer
        steps = 0 <= trainer.max_steps <= trainer.global_step
        early = trainer.early_stopping_callback is not None  # it says that this was the last one after this
        if early or steps or trainer.should_stop or self.current_epoch + 1 == trainer.max_epochs:
            self._calibrate()

    def training_step(self, clip: Clip, batch_idx: int) -> Tensor:
        """Return the flow-matching loss and the blinks' negative log-likelihood of one batch."""
        landmarks, rest = _tracks(clip)
        heard, emotion = hear(clip, landmarks.shape[1]), emotion_probabilities(clip.emotion)
        flow = self._flow_loss(read_head(landmarks, rest), heard, emotion)
        blinks = self._blink_loss(landmarks, heard)
        self.log_loss(flow + blinks, len(landmarks), flow=flow, blinks=blinks)
        return flow + self.hparams["hazard_weight"] * blinks

    def measure(self, batch: Clip, stage: Stage, first: bool) -> None:
        """Compare how much a drawn head moves with how much the true one does."""
        landmarks, rest = _tracks(batch)
        heard, emotion = hear(batch, landmarks.shape[1]), emotion_probabilities(batch.emotion)
        drawn = torch.stack(
            [
                _moved(self.net, track, face, sound, feeling, seed=number)
                for number, (track, face, sound, feeling) in enumerate(
                    zip(landmarks, rest, heard, emotion, strict=True)
                )
            ]
        )
        metric: Any
        for name, metric in self.meters[stage].items():  # type: ignore[union-attr,operator]
            if name == "loss":
                metric.update(self._flow_loss(read_head(landmarks, rest), heard, emotion), len(landmarks))
                continue
            for clip in drawn if name.endswith("drawn") else landmarks:
                metric.update(clip)

    def predict_step(self, clip: Clip, batch_idx: int) -> Tensor:
        """Return (B, T, 8) drawn states."""
        landmarks, _ = _tracks(clip)
        heard, emotion = hear(clip, landmarks.shape[1]), emotion_probabilities(clip.emotion)
        pairs = zip(heard, emotion, strict=True)
        return torch.stack([self.net.draw(sound, e, 0, 0, landmarks.shape[1])[0] for sound, e in pairs])

    def _flow_loss(self, state: Tensor, heard: Tensor, emotion: Tensor) -> Tensor:
        """Compare the velocity with y - n on the frames that have all their neighbours."""
        y = (state / self.net.spread.clamp_min(1e-6)).mT
        y = y - y.nanmean(-1, keepdim=True)
        count = self.hparams["candidates"]
        white = torch.randn(count, *y.shape[:2], len(SCALES), y.shape[2] + 2 * SOURCE_REACH, device=y.device)
        sources = self.net.coloured(white)
        away = (sources - sources.mean(-1, keepdim=True) - y.nan_to_num()).square().mean((2, 3))
        n = sources[away.argmin(0), torch.arange(len(y), device=y.device)]
        # A clip says nothing about where its mean lies: that stays the source's.
        y = y + n.mean(-1, keepdim=True)
        s = torch.rand(len(y), device=y.device)
        seen = y.isfinite()
        x = torch.lerp(n, y.where(seen, n), s[:, None, None])
        reach = self.net.reach
        answer = self.net.velocity(x, s, heard, emotion)
        error = (answer - (y - n)[..., reach:-reach]).square()
        return error[seen[..., reach:-reach]].mean()

    def _blink_loss(self, landmarks: Tensor, heard: Tensor) -> Tensor:
        """Return the Poisson process' negative log-likelihood per frame, and a little weight decay."""
        blinks = torch.zeros(landmarks.shape[:2], device=landmarks.device)
        for number, track in enumerate(landmarks):
            for moment, _ in blink_moments(track, RATE):
                blinks[number, moment] = 1
        told = self.net.intensity(heard)
        mean = blinks.mean().clamp_min(1e-3).log()
        return ((told + mean).exp() - blinks * told).mean() + 1e-3 * self.net.hazard.weight.square().sum()

    @torch.no_grad()
    def _measure_clips(self) -> None:
        """Fill the net's buffers from the training clips, each speaker with the same weight."""
        clips = self._training_clips()
        lags = torch.tensor(_LAGS)
        wanted, total = (torch.zeros(rows, len(lags), dtype=torch.float64) for rows in (len(STATE), 1))
        course, blinks = torch.zeros(BLINK_BEFORE + BLINK_AFTER + 1, dtype=torch.float64), 0.0
        for clip, weight in clips:
            state = read_head(clip.landmarks, clip.reference_landmarks).double()
            for number, lag in enumerate(lag for lag in _LAGS if lag < len(state)):
                step = (state[lag:] - state[:-lag]).square().nanmean(0)
                if step.isfinite().all():  # a short clip tells of short lags alone, and must not count in the others
                    wanted[:, number], total[:, number] = wanted[:, number] + weight * step, total[:, number] + weight
            for part in _blink_courses(clip.landmarks):
                course, blinks = course + weight * part, blinks + weight
        known = total[0] > 0
        wanted, lags = (wanted / total)[:, known], lags[known]
        shares = torch.stack([_nonnegative(structure_function(lags), row) for row in wanted])
        power = shares.sum(1, keepdim=True)
        self.net.spread.copy_(power[:, 0].sqrt())
        self.net.spectrum.copy_(shares / power)
        self.net.blink.copy_(course / max(blinks, 1e-9))

    @torch.no_grad()
    def _calibrate(self, seeds: int = 3, most: int = 48) -> None:
        """Set the gains and the blinks' rate from what the net draws for the training clips.

        The head moves within clips as far as theirs, brows as fast, and as many blinks are found: the brows' and
        blinks' measures are taken of the whole drawn face, as they are of the true one. It is drawn as `DrawnHead` has
        it, from the portrait's pose and returning to it: in short clips that is less motion.
        """
        self.net.gain.fill_(1)
        self.net.blink_rate.fill_(0.01)
        true, drawn = torch.zeros(len(STATE), device=self.device), torch.zeros(len(STATE), device=self.device)
        brows, blinks, faces = 0.0, 0.0, []
        for number, (clip, weight) in enumerate(self._training_clips(most)):
            clip, feeling = clip.to(self.device), emotion_probabilities(clip.emotion)
            state = read_head(clip.landmarks, clip.reference_landmarks)
            heard = prosody(clip.audio, speech_level(clip.audio), len(state))
            true += weight * _within(state)
            brows += weight * brow_dynamics(clip.landmarks).item()
            blinks += weight * len(blink_moments(clip.landmarks, RATE))
            still = clip.reference_landmarks.expand_as(clip.landmarks)
            for seed in range(1000 * number, 1000 * number + seeds):
                drawn += weight / seeds * _within(_returning(self.net, heard, feeling, seed, len(state))[0])
                faces.append((weight / seeds, (still, clip.reference_landmarks, heard, feeling, seed)))
        self.net.gain.copy_((true / drawn.clamp_min(1e-12)).sqrt())
        for _ in range(3):  # blinks move the brows' height, and close ones are one to the eye: found by trying
            tracks = [(weight, _moved(self.net, *face)) for weight, face in faces]
            found = sum(weight * len(blink_moments(track, RATE)) for weight, track in tracks)
            self.net.blink_rate.mul_(min(blinks / max(found, 1e-3), 4.0))
            self.net.gain[6:].mul_(brows / max(sum(w * brow_dynamics(track).item() for w, track in tracks), 1e-9))

    def _training_clips(self, most: int | None = None) -> list[tuple[Any, float]]:
        """Return training clips whole, at most so many of each speaker, each with one over their number.

        One frame shows no motion.
        """
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        dataset = data.dataset("train")
        whose: dict[str, list[int]] = {}
        for number, name in enumerate(data.names("train")):
            whose.setdefault(data.entries[name]["identity"], []).append(number)
        chosen = [numbers[:most] for numbers in whose.values()]
        clips = [(dataset[number], 1 / len(numbers)) for numbers in chosen for number in numbers]
        return [(clip, weight) for clip, weight in clips if len(clip.landmarks) > 1]


def hear(clip: Clip, num_frames: int) -> Tensor:
    """Return (B, P, T): the ``prosody`` of a batch."""
    return torch.stack([prosody(audio, speech_level(audio), num_frames) for audio in clip.audio.float()])


def _tracks(clip: Clip) -> tuple[Tensor, Tensor]:
    if clip.landmarks is None or clip.reference_landmarks is None:
        raise ValueError(
            "the head's motion is learnt from clips with landmarks; got sound alone (data.modality='audio')"
        )
    if (clip.fps - RATE).abs().max() > 0.01:
        raise ValueError(
            f"the head's motion is learnt at {RATE} frames per second; got {clip.fps.max().item():g}: "
            f"preprocess with --fps {RATE}"
        )
    return clip.landmarks, clip.reference_landmarks


def _moved(net: HeadMotionNet, track: Tensor, face: Tensor, heard: Tensor, emotion: Tensor, seed: int) -> Tensor:
    """Return a track (T, 68, 2) with a drawn head and lids in place of its own."""
    state, closing = _returning(net, heard, emotion, seed, len(track))
    still = still_head(track, face)
    still[:, EYES] = face[EYES]
    return move_head(close_lids(still, closing), face, state)


def _returning(net: HeadMotionNet, heard: Tensor, emotion: Tensor, seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Draw (count, 8) states, without what the first tells of the others, and (count,) closings."""
    state, closing = net.draw(heard, emotion, seed, 0, count)
    return state - state[:1] * net.memory(torch.arange(count)), closing


def _within(state: Tensor) -> Tensor:
    """Return (8,) variances over time."""
    return (state - state.nanmean(0)).square().nanmean(0)


def _blink_courses(track: Tensor) -> list[Tensor]:
    """Return each blink's (22,) closing, 1 less the opening over its median outside the blink."""
    opening = eye_opening(track).double()
    relative = 1 - opening / opening.nanquantile(0.75)
    moments = [moment for moment, _ in blink_moments(track, RATE)]
    whole = [m for m in moments if m >= BLINK_BEFORE and m + BLINK_AFTER < len(track)]
    alone = [m for m in whole if all(abs(m - other) > BLINK_AFTER for other in moments if other != m)]
    fade = torch.ones(BLINK_BEFORE + BLINK_AFTER + 1, dtype=torch.float64)
    fade[:3], fade[-6:] = torch.linspace(0, 1, 4)[:3], torch.linspace(1, 0, 7)[1:]
    return [relative[m - BLINK_BEFORE : m + BLINK_AFTER + 1].clamp(0, 1).nan_to_num() * fade for m in alone]


def _nonnegative(matrix: Tensor, wanted: Tensor, rounds: int = 3000) -> Tensor:
    """Solve min |matrix v / wanted - 1| over v >= 0 by multiplicative updates (Lee and Seung 2001)."""
    scale = wanted.clamp_min(1e-12)
    a, b = matrix / scale[:, None], torch.ones_like(wanted)
    v = torch.full((matrix.shape[1],), float(wanted.mean()), dtype=torch.float64)
    for _ in range(rounds):
        v = v * (a.mT @ b) / (a.mT @ (a @ v)).clamp_min(1e-300)
    return v
