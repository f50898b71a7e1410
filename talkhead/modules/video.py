"""Training of the renderer: the class-conditioned video diffusion of the paper, and ours."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import SchedulerMixin
from einops import rearrange
from torch import Tensor, nn
from torchmetrics import Metric

from talkhead.augmentation.pictures import jitter, mingle, mirror, recolour, reshape
from talkhead.data.clip import Clip, emotion_probabilities
from talkhead.data.draws import draw_seed
from talkhead.face.mouth_bank import lip_map
from talkhead.face.points import EYES, INNER_LIP, OUTER_LIP, PARTS
from talkhead.losses.adversarial import Critics
from talkhead.losses.picture import change_loss, detail_loss, relative_scale
from talkhead.metrics import FramePSNR, FrameSSIM, feature_distance
from talkhead.modules.recorded import Recorded
from talkhead.modules.training_module import Stage, TrainingModule
from talkhead.nets.condition import Condition
from talkhead.nets.renderer import Renderer, to_unit
from talkhead.ops.mask_noise import landmark_maps, to_network
from talkhead.schedulers import MaskNoiseBridgeScheduler, Scheduler, forward_coefficients

_EYES, _OUTER_LIP, _INNER_LIP = (PARTS.index(part) for part in (EYES, OUTER_LIP, INNER_LIP))
_WEIGHT_SIGMA = 1 / 32  # of the frame's side: how far around the points the loss is raised


class VideoDiffusion(TrainingModule):
    r"""Class-conditioned video diffusion from mask noise to frames (paper, Sec. 3).

    A step t is drawn, the true frames x_0 are mixed with the mask-noised carrier n by the scheduler, and the renderer
    learns to undo it under

    .. math:: \mathrm{mean}_p\; w_p \, (\hat y_p - y_p)^2

    with y what the scheduler's ``prediction_type`` names and w_p = 1 but around mouth and eyes, and what the weights
    below add. A batch's draws come from one generator (``draw_seed``): a resumed run repeats an unbroken one.

    Args:
        renderer: network and conditioning; default ``Renderer()``.
        scheduler: a diffusers scheduler; default ``MaskNoiseBridgeScheduler()``. The paper's is
            ``DDPMScheduler(prediction_type="sample")``.
        learning_rate: Adam's (paper: 1e-4).
        warmup_steps: in which the learning rate rises to that, at most a tenth of the run (paper: 0). Many people's
            faces, changed faces above all, teach an untrained network nothing unless its first steps are small.
        relative: weigh each sample's errors by those of its carrier, so that what no landmark tells, as between two
            photographs of a person, does not outweigh what can be learnt (paper: false).
        last_step_share: share of the training samples put at the last step, where sampling starts (paper: 0).
        own_share: share of the batches whose x_t the renderer itself made by sampling down from the last step; only
            there it meets its own answers, as at inference (paper: 0).
        mouth_weight: the loss's extra weight at the lips, 1 + mouth_weight there and 1 far from them; 0: none (paper).
        eye_weight: the same at the eyes.
        detail_weight: of the absolute error of the picture's fine detail, weighted like the squared error (paper: 0).
        change_weight: of the squared error of what changes from frame to frame at the mouth (paper: 0).
        adversarial_weight: of two judges, of the mouth and of the whole picture, that learn beside the renderer to tell
            painted from true (see ``Critics``; paper: 0).
        adversarial_from: step from which the renderer hears them; before it they only learn.
        feature_weight: of the distance in the features of ``feature_network`` (see ``feature_distance``; paper: 0).
        feature_network: any network that takes (N, 3, H, W) RGB in [0, 1] and returns one or several layers; it is not
            trained and not kept in checkpoints.
        recolour: share of the samples given another palette.
        mirror: share of the samples flipped left to right.
        jitter: share of the samples turned, scaled and shifted.
        reshape: share of the samples bent into another face.
        mingle: share of the samples with the features of the batch's next person mixed in.
        bank_dropout: share of the samples that lose all further pictures of the person, where the data has any; the
            others keep a random number of them, so that the same weights serve one portrait and several.
        class_dropout: share of the samples that lose their class, for ``guidance_scale`` at inference.
        num_inference_steps: network evaluations when validation samples.
        compile: run the U-Net through ``torch.compile``.
        graphs: on a CUDA device record the U-Net's passes once and replay them (``Recorded``): the card no longer waits
            for the host to ask for each of thousands of small kernels. For one process alone.
    """

    progress_bar = ("psnr",)
    part = "renderer", "renderer"
    conditioned = "renderer"

    def __init__(
        self,
        renderer: Renderer | None = None,
        scheduler: SchedulerMixin | None = None,
        learning_rate: float = 1e-4,
        warmup_steps: int = 0,
        relative: bool = False,
        last_step_share: float = 0.3,
        own_share: float = 0.0,
        mouth_weight: float = 0.0,
        eye_weight: float = 0.0,
        detail_weight: float = 0.0,
        change_weight: float = 0.0,
        adversarial_weight: float = 0.0,
        adversarial_from: int = 0,
        feature_weight: float = 0.0,
        feature_network: nn.Module | None = None,
        recolour: float = 0.0,
        mirror: float = 0.0,
        jitter: float = 0.0,
        reshape: float = 0.0,
        mingle: float = 0.0,
        bank_dropout: float = 0.5,
        class_dropout: float = 0.1,
        num_inference_steps: int = 4,
        compile: bool = False,
        graphs: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["renderer", "scheduler", "feature_network"])
        self.renderer = Renderer() if renderer is None else renderer
        self.scheduler: Scheduler = MaskNoiseBridgeScheduler() if scheduler is None else scheduler
        if self.renderer.config.output != "plain" and self.scheduler.config.prediction_type != "sample":
            raise ValueError(
                f"renderer.output={self.renderer.config.output!r} paints over the carrier and so predicts x_0: give "
                f"the scheduler prediction_type='sample', not {self.scheduler.config.prediction_type!r}"
            )
        if own_share and not isinstance(self.scheduler, MaskNoiseBridgeScheduler):
            raise ValueError(
                f"own_share={own_share} samples by the mask-noise bridge while training: use scheduler="
                f"MaskNoiseBridgeScheduler or own_share=0; got {type(self.scheduler).__name__}"
            )
        if feature_weight and feature_network is None:
            raise ValueError(f"feature_weight={feature_weight} needs feature_network, whose features are compared")
        if (relative or feature_weight or adversarial_weight) and self.scheduler.config.prediction_type != "sample":
            raise ValueError(
                "relative, feature_weight and adversarial_weight look at pictures: give the scheduler "
                f"prediction_type='sample', not {self.scheduler.config.prediction_type!r}"
            )
        if graphs and (compile or self.renderer.config.gradient_checkpointing):
            other = "compile" if compile else "renderer.gradient_checkpointing"
            raise ValueError(f"graphs=True records what {other}=True changes: use one of the two")
        if compile:
            self.renderer.unet.compile()
        if graphs:
            self.renderer.unet.forward = Recorded(self.renderer.unet)  # type: ignore[method-assign]
        self.critics = Critics() if adversarial_weight else None
        # In a tuple it is no part of this module: neither trained nor averaged nor kept.
        self._frozen = () if feature_network is None else (feature_network.eval().requires_grad_(False),)
        self.watch(_meters(), _meters())
        self._rows: tuple[Tensor, ...] = ()

    def setup(self, stage: str) -> None:
        """Refuse what ``TrainingModule`` refuses, and recorded passes that several processes would have to wait in."""
        super().setup(stage)
        if stage == "fit" and self.hparams.graphs and self.trainer.world_size > 1:
            raise ValueError(
                f"model.graphs=True is for one process, and these are {self.trainer.world_size}: leave it out"
            )

    def training_step(self, batch: Clip, batch_idx: int) -> Tensor:
        """Return the loss of one batch of windows."""
        generator = self._generator(batch_idx)
        frames, landmarks, bank = self._augmented(batch, generator)
        emotion = emotion_probabilities(batch.emotion)
        kept = torch.rand(len(emotion), 1, generator=generator) >= self.hparams.class_dropout
        loss = self.loss(frames, landmarks, emotion * kept.to(emotion, non_blocking=True), generator, bank)
        self.log_loss(loss, len(emotion))
        return loss

    def loss(
        self,
        frames: Tensor,
        landmarks: Tensor,
        emotion: Tensor,
        generator: torch.Generator,
        bank: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Draw steps and noise and return the weighted squared error, and what else is asked for.

        Args:
            frames: (B, 1 + T, 3, H, W) float in [0, 1], the reference first.
            landmarks: (B, 1 + T, 68, 2) px, the reference's first.
            emotion: (B, 8) probabilities.
            generator: source of the draws.
            bank: further pictures, (B, R, 3, H, W) float in [0, 1], and their landmarks, see ``Renderer.prepare``.
        """
        batch, steps = len(frames), self.scheduler.config.num_train_timesteps
        seeds = torch.randint(2**31, (batch,), generator=generator).to(self.device, non_blocking=True)
        own = self.hparams.own_share > 0 and torch.rand((), generator=generator) < self.hparams.own_share
        with torch.no_grad():
            if own:
                sample, target, condition, timesteps = self._own(frames, landmarks, emotion, seeds, generator, bank)
            else:
                timesteps = torch.randint(steps, (batch,), generator=generator)
                last = torch.rand(batch, generator=generator) < self.hparams.last_step_share
                timesteps = torch.where(last, steps - 1, timesteps).to(self.device, non_blocking=True)
                sample, target, condition = self._noised(frames, landmarks, seeds, timesteps, bank)
        predicted = self.renderer(sample, timesteps, condition, emotion)
        with torch.autocast(frames.device.type, enabled=False):
            scale = relative_scale(condition.carrier, target) if self.hparams.relative else 1.0
            loss = self._error(scale * predicted.float(), scale * target, landmarks[:, 1:])
            return loss + self._judged(predicted.float(), target, condition.carrier, landmarks[:, 1:])

    def _judged(self, predicted: Tensor, target: Tensor, carrier: Tensor, landmarks: Tensor) -> Tensor:
        """Return what other networks say of (B, 3, T, H, W) predictions, as far as they are asked."""
        loss = predicted.new_zeros(())
        for network in self._frozen:
            seen, true = (rearrange(video, "b c t h w -> (b t) c h w") / 2 + 0.5 for video in (predicted, target))
            loss = loss + self.hparams.feature_weight * feature_distance(seen, true, network.to(self.device)).mean()
        if self.critics is not None:
            heard = self.global_step >= self.hparams.adversarial_from
            painter, own = self.critics(predicted, target, carrier, landmarks, heard)
            loss = loss + self.hparams.adversarial_weight * painter + own
        return loss

    def _error(self, predicted: Tensor, target: Tensor, landmarks: Tensor) -> Tensor:
        """Return the weighted loss of (B, 3, T, H, W) predictions."""
        weight = self._weight(landmarks)
        loss = (weight * F.mse_loss(predicted, target, reduction="none")).mean()
        if self.hparams.detail_weight:
            loss = loss + self.hparams.detail_weight * detail_loss(predicted, target, weight)
        if self.hparams.change_weight:
            side = self.renderer.config.size
            where = lip_map(landmarks, (side, side))[:, None]
            loss = loss + self.hparams.change_weight * change_loss(predicted, target, where)
        return loss

    def measure(self, batch: Clip, stage: Stage, first: bool) -> None:
        """Sample a batch as inference would, and compare it and the carrier with the truth."""
        truth = _given(batch)[0]
        painted, carrier = self._sampled(batch)
        for name, frames in {"psnr": painted, "ssim": painted, "psnr_carrier": carrier}.items():
            self.meters[stage][name].update(frames, truth)  # type: ignore[index]
        if first:
            self._rows = (truth[0], painted[0], carrier[0])

    def conclude(self, stage: Stage) -> None:
        """Log PSNR and SSIM beside the carrier's, and show a few frames: truth, painted, carrier."""
        super().conclude(stage)
        name = f"pictures/{stage}_step_{self.global_step:07d}.png"
        rows, self._rows = self._rows, ()
        self.show(f"{stage}/pictures", lambda: picture_grid(*rows) if rows else None, name)

    def predict_step(self, batch: Clip, batch_idx: int) -> Tensor:
        """Return the painted frames, (B, T, 3, H, W) uint8."""
        return self._sampled(batch)[0]

    @torch.no_grad()
    def sample(self, condition: Condition, emotion: Tensor, num_inference_steps: int) -> Tensor:
        """Run the whole process on one window.

        Args:
            condition: from ``renderer.prepare``.
            emotion: (B, 8) probabilities.
            num_inference_steps: network evaluations.

        Returns:
            (B, 3, T, H, W) x_0 in [-1, 1].
        """
        self.scheduler.set_timesteps(num_inference_steps)
        sample = condition.noise
        for timestep in self.scheduler.timesteps:
            output = self.renderer.predict(sample, timestep, condition, emotion)
            sample = self.scheduler.step(output, timestep, sample).prev_sample
        return sample

    def _sampled(self, batch: Clip) -> tuple[Tensor, Tensor]:
        """Return the painted frames and the carrier, (B, T, 3, H, W) uint8."""
        _, landmarks, reference, reference_landmarks = _given(batch)
        condition = self.renderer.prepare(reference, reference_landmarks, landmarks)
        emotion = emotion_probabilities(batch.emotion)
        painted = self.sample(condition, emotion, self.hparams.num_inference_steps)
        return self.renderer.decode(painted), self.renderer.decode(condition.carrier)

    def _generator(self, batch_idx: int) -> torch.Generator:
        """The source of one batch's draws; on the CPU, so that every device draws the same."""
        return torch.Generator().manual_seed(draw_seed(self.current_epoch, batch_idx, self.global_rank))

    def _augmented(
        self, batch: Clip, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
        """Return frames (B, 1 + T, 3, H, W) in [0, 1] and landmarks, the reference in front, and the bank.

        All pictures of a sample are augmented alike.
        """
        truth, targets, reference, reference_landmarks = _given(batch)
        count, further = 1 + truth.shape[1], () if batch.bank is None else (batch.bank,)
        frames = to_unit(torch.cat([reference[:, None], truth, *further], 1))
        points = () if batch.bank_landmarks is None else (batch.bank_landmarks,)
        landmarks = torch.cat([reference_landmarks[:, None], targets, *points], 1)
        if self.hparams.mingle:
            frames = mingle(frames, landmarks, self.hparams.mingle, generator)
        if self.hparams.mirror:
            frames, landmarks = mirror(frames, landmarks, self.hparams.mirror, generator)
        if self.hparams.jitter:
            frames, landmarks = jitter(frames, landmarks, self.hparams.jitter, generator)
        if self.hparams.reshape:
            frames, landmarks = reshape(frames, landmarks, self.hparams.reshape, generator)
        if self.hparams.recolour:
            frames = recolour(frames, self.hparams.recolour, generator)
        if batch.bank is None:
            return frames, landmarks, None
        bank = frames[:, count:], self._thinned(landmarks[:, count:], generator)
        return frames[:, :count], landmarks[:, :count], bank

    def _thinned(self, landmarks: Tensor, generator: torch.Generator) -> Tensor:
        """Take further pictures away, by the NaN that means there is none: all from some samples, some from others."""
        batch, size = landmarks.shape[:2]
        kept = torch.randint(1, size + 1, (batch, 1), generator=generator)
        none = torch.rand(batch, 1, generator=generator) < self.hparams.bank_dropout
        gone = none | (torch.arange(size) >= kept)
        return landmarks.masked_fill(gone[..., None, None].to(landmarks.device), torch.nan)

    def _noised(
        self,
        frames: Tensor,
        landmarks: Tensor,
        seeds: Tensor,
        timesteps: Tensor,
        bank: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Condition]:
        """Return x_t, what is to be predicted from it, and the condition.

        Where n itself is not asked for, x_t leaves the mask-noise kernel ready and n is never written.
        """
        places, clean = _places(frames, landmarks), to_network(frames[:, 1:])
        if self.scheduler.config.prediction_type == "sample" and not self.renderer.config.noise_channels:
            blend = (frames[:, 1:], *forward_coefficients(self.scheduler, timesteps))
            condition = self.renderer.prepare(*places, bank=bank, seed=seeds, blend=blend)
            return condition.noise, clean, condition
        condition = self.renderer.prepare(*places, bank=bank, seed=seeds)
        sample = self.scheduler.add_noise(clean, condition.noise, timesteps)
        return sample, self._target(clean, condition, timesteps), condition

    def _own(
        self,
        frames: Tensor,
        landmarks: Tensor,
        emotion: Tensor,
        seeds: Tensor,
        generator: torch.Generator,
        bank: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Condition, Tensor]:
        """Return x_t as sampling reaches it after one or two steps of the present renderer, target, condition and t."""
        assert isinstance(self.scheduler, MaskNoiseBridgeScheduler)  # no other is taken with own_share
        condition = self.renderer.prepare(*_places(frames, landmarks), bank=bank, seed=seeds)
        sample, clean = condition.noise, to_network(frames[:, 1:])
        here = torch.full((len(frames),), self.scheduler.config.num_train_timesteps - 1, device=self.device)
        for _ in range(1 + int(torch.randint(2, (), generator=generator))):
            answer = self.renderer(sample, here, condition, emotion)
            answer = self.scheduler.original_sample(answer, here, sample)
            share = torch.rand(len(frames), generator=generator).to(self.device, non_blocking=True)
            there = (share * here).long()
            sample, here = self.scheduler.bridge(answer, sample, here, there), there
        return sample, self._target(clean, condition, here), condition, here

    def _target(self, clean: Tensor, condition: Condition, timesteps: Tensor) -> Tensor:
        kind = self.scheduler.config.prediction_type
        if kind == "sample":
            return clean
        if kind == "epsilon":
            return condition.noise
        return self.scheduler.get_velocity(clean, condition.noise, timesteps)

    def _weight(self, landmarks: Tensor) -> Tensor:
        """Return the loss's weight at each pixel, (B, 1, T, H, W) or a one."""
        if not (self.hparams.mouth_weight or self.hparams.eye_weight):
            return landmarks.new_ones(())
        side = self.renderer.config.size
        maps = landmark_maps(landmarks, (side, side), sigma=side * _WEIGHT_SIGMA)
        mouth = torch.maximum(maps[:, _OUTER_LIP], maps[:, _INNER_LIP])
        weight = 1 + self.hparams.mouth_weight * mouth + self.hparams.eye_weight * maps[:, _EYES]
        return weight[:, None]


def picture_grid(*videos: Tensor) -> Tensor:
    """Return up to 8 frames of each (T, 3, H, W) video side by side, the videos below each other: (3, R H, 8 W)."""
    pick = torch.linspace(0, len(videos[0]) - 1, min(8, len(videos[0]))).long()
    return rearrange(torch.stack([video[pick].cpu() for video in videos]), "r t c h w -> c (r h) (t w)")


def _meters() -> dict[str, Metric]:
    """Return what a stage of validation or test measures."""
    return {"psnr": FramePSNR(most=100), "ssim": FrameSSIM(), "psnr_carrier": FramePSNR(most=100)}


def _places(frames: Tensor, landmarks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what ``Renderer.prepare`` is told: the portrait, its landmarks, the landmarks of the frames."""
    return frames[:, 0], landmarks[:, 0], landmarks[:, 1:]


def _given(batch: Clip) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return frames, landmarks, reference and its landmarks of a batch that must have pictures."""
    if batch.frames is None or batch.landmarks is None or batch.reference is None or batch.reference_landmarks is None:
        raise ValueError("the renderer trains on pictures, and this batch has none: use data.modality=video")
    return batch.frames, batch.landmarks, batch.reference, batch.reference_landmarks
