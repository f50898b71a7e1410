"""The processes: the mask-noise bridge between a picture and its mask-noised twin, and the paper's, which is DDPM."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler, DDPMSchedulerOutput
from diffusers.utils import BaseOutput
from torch import Tensor

Spacing = Literal["leading", "trailing"]


class Scheduler(Protocol):
    """What the library asks of a process' steps: the part of diffusers' interface that all its schedulers share.

    Attributes:
        config: with ``num_train_timesteps`` and ``prediction_type``.
        timesteps: (N,) integers, falling: where the network is asked.
        set_timesteps: (number, device=...), spaces ``timesteps``.
        step: (output, timestep, sample) -> an object with ``prev_sample``.
    """

    timesteps: Tensor

    @property
    def config(self) -> Any:
        """As in diffusers."""

    @property
    def set_timesteps(self) -> Callable[..., None]:
        """As in diffusers; schedulers differ in what else they take."""

    @property
    def step(self) -> Callable[..., Any]:
        """As in diffusers; schedulers differ in what else they take."""

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return x_t."""

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return what a network with ``prediction_type="v_prediction"`` is to answer."""

    @property
    def save_pretrained(self) -> Callable[..., Any]:
        """Write ``scheduler_config.json`` into a folder."""


@dataclass
class MaskNoiseBridgeOutput(BaseOutput):
    """What a step returns.

    Attributes:
        prev_sample: the sample at the next, cleaner step.
        pred_original_sample: the prediction of the clean sample.
    """

    prev_sample: Tensor
    pred_original_sample: Tensor


class MaskNoiseBridgeScheduler(SchedulerMixin, ConfigMixin):
    r"""A process whose noise end is the mask-noised video itself.

    .. math:: x_s = (1 - s) x_0 + s n, \qquad x_{s'} = \hat x_0 + \frac{s'}{s} (x_s - \hat x_0)

    with :math:`n` the mask-noised frames, :math:`s = (t + 1) / N` for the integer step t = 0 ... N - 1, and s' = 0
    after the last step. No Gaussian noise is ever injected: sampling is deterministic given n. The interface is that of
    diffusers.

    Args:
        num_train_timesteps: N, the number of integer steps.
        prediction_type: what the network predicts: ``"sample"`` (x_0), ``"epsilon"`` (n) or ``"v_prediction"``
            (n - x_0).

    Example:
        >>> scheduler = MaskNoiseBridgeScheduler()
        >>> scheduler.set_timesteps(4)
        >>> scheduler.timesteps.tolist()
        [999, 749, 499, 249]
    """

    order = 1

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        prediction_type: Literal["sample", "epsilon", "v_prediction"] = "sample",
    ) -> None:
        if prediction_type not in ("sample", "epsilon", "v_prediction"):
            raise ValueError(f"prediction_type must be 'sample', 'epsilon' or 'v_prediction'; got {prediction_type!r}")
        self.init_noise_sigma = 1.0
        self.num_inference_steps: int | None = None
        self.timesteps = torch.arange(num_train_timesteps - 1, -1, -1)

    def set_timesteps(
        self, num_inference_steps: int, device: torch.device | str | None = None, start_timestep: int | None = None
    ) -> None:
        """Space the steps evenly in s from ``start_timestep`` down to 0.

        Args:
            num_inference_steps: number of network evaluations.
            device: where ``timesteps`` lives; leave it on the CPU, also when the samples are on a GPU: each step reads
                its number there, and would wait for the card.
            start_timestep: first integer step, default the last one (pure mask noise).

        Raises:
            ValueError: if there are more steps than integers to stand on.
        """
        start = self.config.num_train_timesteps - 1 if start_timestep is None else start_timestep
        if not 0 <= start < self.config.num_train_timesteps:
            raise ValueError(f"start_timestep must lie in 0..{self.config.num_train_timesteps - 1}; got {start}")
        self.timesteps = torch.tensor(even_timesteps(num_inference_steps, start), device=device or "cpu")
        self.num_inference_steps = num_inference_steps

    def share(self, timesteps: Tensor | int) -> Tensor:
        """Return s in (0, 1], the mask noise's share at integer ``timesteps``."""
        return (torch.as_tensor(timesteps) + 1) / self.config.num_train_timesteps

    def coefficients(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Return (a, b) of x_t = a x_0 + b n at integer ``timesteps``."""
        share = self.share(timesteps)
        return 1 - share, share

    def scale_model_input(self, sample: Tensor, timestep: Tensor | int | None = None) -> Tensor:
        """Return the sample as it is (part of diffusers' interface)."""
        return sample

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return x_s = (1 - s) x_0 + s n.

        Args:
            original_samples: (B, ...) clean samples x_0.
            noise: (B, ...) mask-noised samples n.
            timesteps: (B,) integer steps.
        """
        return _mix(original_samples, noise, self.share(timesteps))

    def original_sample(self, model_output: Tensor, timestep: Tensor | int, sample: Tensor) -> Tensor:
        """Return the network's x_0, whatever ``prediction_type`` it predicts.

        From n, x_0 = (x_s - s n) / (1 - s), which has no answer at s = 1: there x_s = n says nothing of x_0, and the
        sample itself is returned.
        """
        share = _like(self.share(timestep), sample)
        if self.config.prediction_type == "sample":
            return model_output
        if self.config.prediction_type == "v_prediction":
            return sample - share * model_output
        known = (sample - share * model_output) / (1 - share).clamp_min(1e-6)
        return torch.where((share < 1).to(sample.device, non_blocking=True), known, sample)

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return the target of ``"v_prediction"``, n - x_0, the process' constant velocity dx_s / ds."""
        return noise - sample

    def bridge(self, clean: Tensor, sample: Tensor, timestep: Tensor | int, previous: Tensor | int) -> Tensor:
        """Return x_{s'} = x_0 + (s' / s) (x_s - x_0).

        Args:
            clean: (B, ...) x_0 or its prediction.
            sample: (B, ...) x_s.
            timestep: the integer step of x_s, one or (B,).
            previous: the integer step of x_{s'}, one or (B,).
        """
        return _mix(clean, sample, self.share(previous) / self.share(timestep))

    def step(
        self, model_output: Tensor, timestep: Tensor | int, sample: Tensor, return_dict: bool = True
    ) -> MaskNoiseBridgeOutput | tuple[Tensor, Tensor]:
        """Go from x_s to x_{s'}, s' the next of ``timesteps`` (0 after the last).

        Args:
            model_output: the network's prediction.
            timestep: the current integer step, one of ``timesteps``.
            sample: x_s.
            return_dict: whether to return ``MaskNoiseBridgeOutput`` rather than a tuple.

        Raises:
            ValueError: if ``timestep`` is none of ``timesteps``.
        """
        clean = self.original_sample(model_output, timestep, sample)
        steps, step = self.timesteps.tolist(), int(timestep)
        if step not in steps:
            near = min(steps, key=lambda other: abs(other - step))
            raise ValueError(
                f"timestep must be one of the {len(steps)} in timesteps, which set_timesteps spaces; got {step}: "
                f"the nearest is {near}"
            )
        here = steps.index(step)
        last = here + 1 == len(steps)
        previous = clean if last else self.bridge(clean, sample, timestep, self.timesteps[here + 1])
        return MaskNoiseBridgeOutput(previous, clean) if return_dict else (previous, clean)


class PaperProcess(DDPMScheduler):
    """DDPM with both readings of the paper's timesteps, with or without its ancestral noise.

    Attributes:
        ancestral: whether a step adds Gaussian noise. The noise end of the process is mask noise, so a network
            trained on it has never seen a Gaussian.
    """

    ancestral = True

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: list[int] | None = None,
        start_timestep: int | None = None,
    ) -> None:
        """Choose exactly ``num_inference_steps`` steps at or below ``start_timestep``, by ``timestep_spacing``."""
        start = self.config["num_train_timesteps"] - 1 if start_timestep is None else start_timestep
        if timesteps is None:
            timesteps = spaced(num_inference_steps or 0, start, self.config["timestep_spacing"])
        super().set_timesteps(timesteps=timesteps, device=device or "cpu")

    def step(
        self,
        model_output: Tensor,
        timestep: int,
        sample: Tensor,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
    ) -> DDPMSchedulerOutput | tuple:
        r"""Step down; deterministic: :math:`x_{t'} = \sqrt{a'} x_0 + \sqrt{(1-a')/(1-a)} (x_t - \sqrt{a} x_0)`."""
        previous, clean = super().step(model_output, timestep, sample, generator=generator, return_dict=False)
        if not self.ancestral:
            before = self.previous_timestep(timestep)
            here = self.alphas_cumprod[timestep]
            there = self.alphas_cumprod[before] if before >= 0 else self.one
            kept = ((1 - there) / (1 - here)).sqrt()
            previous = there.sqrt() * clean + kept * (sample - here.sqrt() * clean)
        return DDPMSchedulerOutput(previous, clean) if return_dict else (previous, clean)


def keyed_step(scheduler: Scheduler, answer: Tensor, timestep: float, sample: Tensor, **key: int) -> Tensor:
    """Return the sample one level on: of the arguments alone, whatever was stepped before.

    Some (``LCMScheduler``) count their steps from the first timestep that they are given. Each step is a copy's first,
    so that levels may come in any order.

    Args:
        scheduler: its timesteps set.
        answer: the network's.
        timestep: at which ``sample`` stands.
        sample: x_t.
        key: ``seed``, ``frame`` and ``level``, to which belongs what a scheduler draws on the way: the number of the
            sample's first frame in the video, and of the steps that it has taken.
    """
    return _step(copy.copy(scheduler), answer, timestep, sample, **key)


def _step(
    scheduler: Scheduler, answer: Tensor, timestep: float, sample: Tensor, seed: int, frame: int, level: int
) -> Tensor:
    drawn = {}
    if "generator" in inspect.signature(scheduler.step).parameters:
        key = (seed * 1_000_003 + frame) * 10_007 + level
        drawn["generator"] = torch.Generator().manual_seed(key % 2**63)
    return scheduler.step(answer, timestep, sample, **drawn).prev_sample


def check_scheduler(scheduler: Scheduler) -> Scheduler:
    """Return a scheduler that a video's windows, each at another level, can share.

    Raises:
        ValueError: if its step needs more than the answer, the timestep and the sample, such as earlier answers.
    """
    if (why := _unshared(scheduler)) is None:
        return scheduler
    raise ValueError(
        "scheduler must step by the network's present answer alone, as MaskNoiseBridgeScheduler, DDIMScheduler, "
        f"DDPMScheduler and LCMScheduler do; {type(scheduler).__name__} {why}: give one of those"
    )


def _unshared(scheduler: Scheduler) -> str | None:
    """Return why windows at several levels cannot share a scheduler; None where they can."""
    if not hasattr(scheduler, "add_noise") or "prediction_type" not in scheduler.config:
        return "does not say what its network predicts"
    fresh, sample = copy.deepcopy(scheduler), torch.linspace(-1, 1, 8).view(1, 2, 1, 2, 2)
    key = {"seed": 0, "frame": 0}
    try:
        fresh.set_timesteps(min(4, scheduler.config.num_train_timesteps), device="cpu")
        first, *rest = fresh.timesteps.tolist()
        if not torch.equal(fresh.scale_model_input(sample, first), sample):  # type: ignore[attr-defined]
            return "scales what its network is shown"
        used = copy.deepcopy(fresh)
        _step(used, sample / 2, first, sample, level=0, **key)
        steps = [keyed_step(one, sample / 3, t, sample, level=1, **key) for t in rest[:1] for one in (used, fresh)]
    except Exception as error:  # each has its own way to miss what it wants
        return f"cannot ({type(error).__name__}: {' '.join(str(error).split()):.80})"
    return None if not steps or torch.equal(*steps) else "needs the answers of the steps before"


def even_timesteps(steps: int, start: int) -> list[int]:
    """Return ``steps`` integers from ``start`` down, evenly spaced; one more of them would be -1, the clean end.

    Raises:
        ValueError: if there are fewer than 1 or more than start + 1 steps.

    Example:
        >>> even_timesteps(4, 999)
        [999, 749, 499, 249]
    """
    if not 1 <= steps <= start + 1:
        raise ValueError(f"num_inference_steps must lie in 1..{start + 1}, what is left from step {start}; got {steps}")
    return [round((start + 1) * k / steps) - 1 for k in range(steps, 0, -1)]


def spaced(steps: int, start: int, spacing: Spacing) -> list[int]:
    """Return ``steps`` integers from at most ``start`` down, as diffusers spaces them, but always as many as asked.

    Raises:
        ValueError: if there are fewer than 1 or more than start + 1 steps, or the spacing is unknown.

    Example:
        >>> spaced(4, 999, "leading"), spaced(4, 999, "trailing")
        ([750, 500, 250, 0], [999, 749, 499, 249])
    """
    trailing = even_timesteps(steps, start)  # refuses too many steps, for either spacing
    if spacing == "leading":
        return [k * ((start + 1) // steps) for k in reversed(range(steps))]
    if spacing == "trailing":
        return trailing
    raise ValueError(f"spacing must be 'leading' or 'trailing'; got {spacing!r}")


def forward_coefficients(scheduler: Scheduler, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """Return (a, b) of the forward process x_t = a x_0 + b n.

    Args:
        scheduler: the bridge, or a scheduler of diffusers whose a^2 is the cumulated alpha and b^2 = 1 - a^2.
        timesteps: (B,) integer steps.

    Returns:
        Two (B,) float32 tensors.

    Raises:
        ValueError: if the scheduler is neither.
    """
    if isinstance(scheduler, MaskNoiseBridgeScheduler):
        return scheduler.coefficients(timesteps)
    if not hasattr(scheduler, "alphas_cumprod"):
        raise ValueError(
            "scheduler must be MaskNoiseBridgeScheduler or have diffusers' alphas_cumprod, from which x_t is mixed in "
            f"training; got {type(scheduler).__name__}"
        )
    alphas = scheduler.alphas_cumprod.to(timesteps.device, non_blocking=True)[timesteps]
    return alphas.sqrt(), (1 - alphas).sqrt()


def _mix(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """Return (1 - share) first + share second for a () or (B,) share."""
    if share.ndim == 0 and share.device.type == "cpu":  # a number goes to the card with the kernel, a tensor by itself
        return torch.lerp(first, second, share.item())
    return torch.lerp(first, second, _like(share, second).expand_as(second))


def _like(value: Tensor, sample: Tensor) -> Tensor:
    """Give a () or (B,) value the trailing axes, device and dtype of ``sample``."""
    if value.ndim == 0 and value.device.type == "cpu":
        return value.to(sample.dtype)  # PyTorch lets a number on the CPU meet tensors of any device
    value = value.to(sample.device, sample.dtype, non_blocking=True)
    return value.reshape(value.shape + (1,) * (sample.ndim - value.ndim)) if value.ndim else value
