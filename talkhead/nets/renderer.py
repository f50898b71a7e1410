"""The renderer: from one picture and a sequence of landmarks to the frames that lie on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from einops import rearrange, repeat
from torch import Tensor

from talkhead.face.warp import displace, thin_plate_spline_field
from talkhead.nets.unet3d import UNet3D
from talkhead.ops.mask_noise import landmark_maps, mask_noise, to_network

_OUTPUTS = {"plain": 3, "residual": 3, "alpha": 4, "flow": 5}  # channels that the U-Net must answer
_FLOW_UNIT = 2.0  # px at 128 px that an answer of one moves the carrier: the order of what the spline gets wrong
_BASE_SIZE = 128  # px at which sigma, kernel_size and map_sigma are given; they grow with the frame


@dataclass(frozen=True)
class Condition:
    """What the network is told about each frame, in the network's range [-1, 1] and layout.

    Attributes:
        noise: (B, 3, T, H, W) the mask-noised carrier n, the noise end of the process.
        carrier: (B, 3, T, H, W) the reference, repeated or warped to each frame's landmarks.
        channels: (B, C', T, H, W) condition channels put beside the sample; C' may be 0.
    """

    noise: Tensor
    carrier: Tensor
    channels: Tensor

    def frames(self, start: int, stop: int) -> Condition:
        """Return the condition of frames ``start`` to ``stop``."""
        return Condition(*(getattr(self, f.name)[:, :, start:stop] for f in fields(self)))


class Renderer(ModelMixin, ConfigMixin):
    r"""The video diffusion's network with its conditioning: the paper's Mask-Noise and Class-Diffusion layers.

    With carrier c (the reference picture, repeated or warped to the landmarks), mask-noised carrier n (Eqs. 1-2) and
    sample x_s, the network's output is

    * ``output="plain"``: U(x_s, ...), the paper;
    * ``output="residual"``: c + r U(x_s, tanh((x_s - c) / r), ...), so that what need not change is copied;
    * ``output="alpha"``: c + sigmoid(a) (p - c), a and p both from U(x_s, tanh((x_s - c) / r), ...);
    * ``output="flow"``: c moved by f, plus r u, f (px) and u both from U(x_s, tanh((x_s - c) / r), ...). The spline
      knows 68 points of the face; hair, ears, collar and shoulders move with laws of their own, which f learns.

    The frame differs from a warped carrier by about a tenth of the pictures' own range (0.06 in [-1, 1] on GRID). The
    scale r brings what the network must see and say to the order of one, as c_in and c_out do in Karras et al. (2022):
    without it Adam's own jitter at the last layer is as large as the whole residual, and training crawls.

    Args:
        size: side of the square frames in px; pictures of another size are refused by ``prepare``.
        widths, blocks, patch, attention_levels, gradient_checkpointing: see ``UNet3D``.
        carrier: the picture that carries the noise: ``"reference"`` (the paper) or ``"warped"`` (thin-plate spline).
        output: see above.
        residual_scale: r.
        carrier_channels: give the carrier to the network beside the sample.
        reference_channels: give the reference picture itself to the network, repeated.
        field_channels: give the spline's displacement to the network, in 16ths of the frame: how the head has moved.
        noise_channels: give the mask-noised carrier to the network at every step.
        map_channels: give soft Gaussian maps of the landmarks, one for each of 6 groups.
        sigma, kernel_size, threshold, overlap: the mask's, see ``mask_noise``; the first two in px at 128 px, scaled
            with ``size``, the threshold against it so that the discs scale too.
        map_sigma: standard deviation of the soft maps, px at 128 px.

    Example:
        >>> renderer = Renderer(size=16, widths=(8, 16), patch=2)
        >>> picture = torch.randint(0, 255, (1, 3, 16, 16), dtype=torch.uint8)
        >>> points = torch.rand(1, 68, 2) * 15
        >>> condition = renderer.prepare(picture, points, points[:, None].repeat(1, 4, 1, 1))
        >>> emotion = torch.full((1, 8), 1 / 8)
        >>> renderer.decode(renderer.predict(condition.noise, 999, condition, emotion)).shape
        torch.Size([1, 4, 3, 16, 16])
    """

    @register_to_config
    def __init__(
        self,
        size: int = 128,
        widths: Sequence[int] = (32, 64, 128, 256),
        blocks: int = 1,
        patch: int = 2,
        attention_levels: int = 2,
        gradient_checkpointing: bool = False,
        carrier: Literal["reference", "warped"] = "warped",
        output: Literal["plain", "residual", "alpha", "flow"] = "flow",
        residual_scale: float = 0.1,
        carrier_channels: bool = True,
        reference_channels: bool = False,
        field_channels: bool = True,
        noise_channels: bool = False,
        map_channels: bool = True,
        sigma: float = 2.0,
        kernel_size: int = 11,
        threshold: float = 0.01,
        overlap: Literal["max", "sum"] = "max",
        map_sigma: float = 2.0,
    ) -> None:
        super().__init__()
        if carrier not in ("reference", "warped") or output not in _OUTPUTS:
            raise ValueError(
                f"carrier must be 'reference' or 'warped' and output one of {', '.join(_OUTPUTS)}; "
                f"got {carrier!r} and {output!r}"
            )
        difference = 3 * (output != "plain")
        extra = difference + 3 * (carrier_channels + reference_channels + noise_channels)
        extra += 2 * field_channels + 6 * map_channels
        self.unet = UNet3D(
            in_channels=3 + extra,
            out_channels=_OUTPUTS[output],
            widths=widths,
            blocks=blocks,
            patch=patch,
            attention_levels=attention_levels,
            gradient_checkpointing=gradient_checkpointing,
        )

    def prepare(
        self,
        reference: Tensor,
        reference_landmarks: Tensor,
        landmarks: Tensor,
        *,
        seed: int | Tensor = 0,
        frame_offset: int | Tensor = 0,
        blend: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> Condition:
        """Compute everything the network is told that does not change from step to step.

        Args:
            reference: (B, 3, H, W) uint8 picture, H = W = ``size``.
            reference_landmarks: (B, 68, 2) px.
            landmarks: (B, T, 68, 2) px of the frames to paint.
            seed: of the mask noise, one or (B,).
            frame_offset: absolute index of the first frame, one or (B,): the noise belongs to absolute frames.
            blend: (frames (B, T, 3, H, W) in [0, 1], a (B,), b (B,)): put the training sample a x_0 + b n in the place
                of n, made in the same pass over memory.

        Raises:
            ValueError: if the picture's size is not the renderer's, or ``blend`` meets a network that is to see n.
        """
        if tuple(reference.shape[-2:]) != (self.config.size, self.config.size):
            raise ValueError(
                f"reference must be {self.config.size} x {self.config.size} px, the size this renderer was trained at; "
                f"got {tuple(reference.shape[-2:])}: crop and resize it first"
            )
        if blend is not None and self.config.noise_channels:
            raise ValueError(
                "blend gives x_t in the place of n, and a renderer with noise_channels needs n: leave it out"
            )
        carrier, field = self._carrier(reference, reference_landmarks, landmarks)
        if blend is not None:  # the clean frames come in the carrier's type
            clean = blend[0] if carrier.is_floating_point() else (blend[0] * 255).round().to(torch.uint8)
            blend = (clean, blend[1], blend[2])
        noise = mask_noise(
            carrier, landmarks, **self._mask_arguments(), seed=seed, frame_offset=frame_offset, blend=blend
        )
        assert isinstance(noise, Tensor)  # no mask was asked for
        frames = landmarks.shape[1]
        still = to_network(reference[:, None].float() / 255).expand(-1, -1, frames, -1, -1)
        moved = to_network(carrier) if carrier.ndim == 5 else still
        return Condition(noise, moved, self._channels(noise, moved, still, field, landmarks))

    def forward(self, sample: Tensor, timestep: Tensor | int, condition: Condition, emotion: Tensor) -> Tensor:
        """Predict what the scheduler's ``prediction_type`` names (x_0 by default).

        Args:
            sample: (B, 3, T, H, W) x_t in [-1, 1].
            timestep: (B,) or one integer step.
            condition: from ``prepare``.
            emotion: (B, 8) probabilities; all zeros: no class given.

        Returns:
            (B, 3, T, H, W).
        """
        timestep = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        seen = [sample, condition.channels.to(sample)]
        if self.config.output != "plain":
            seen.append(torch.tanh((sample - condition.carrier) / self.config.residual_scale))
        out = self.unet(torch.cat(seen, 1), timestep, emotion).float()
        if self.config.output == "plain":
            return out
        if self.config.output == "alpha":
            alpha = torch.sigmoid(out[:, 3:])
            return condition.carrier + alpha * (out[:, :3] - condition.carrier)
        base = condition.carrier
        if self.config.output == "flow":
            base = move(base, _FLOW_UNIT * self.config.size / _BASE_SIZE * out[:, 3:])
        return base + self.config.residual_scale * out[:, :3]

    @torch.no_grad()
    def predict(
        self,
        sample: Tensor,
        timestep: Tensor | int,
        condition: Condition,
        emotion: Tensor,
        guidance_scale: float = 1.0,
    ) -> Tensor:
        """Predict at inference: no gradients, bf16 arithmetic where the device has it, classifier-free guidance.

        Args:
            sample: (B, 3, T, H, W) x_t in [-1, 1].
            timestep: (B,) or one integer step.
            condition: from ``prepare``.
            emotion: (B, 8) probabilities.
            guidance_scale: 1 follows the class, more exaggerates it: u + scale (c - u), u the prediction without class.
        """
        with torch.autocast(sample.device.type, torch.bfloat16, enabled=has_fast_bf16(sample.device)):
            given = self(sample, timestep, condition, emotion)
            if guidance_scale == 1.0:
                return given
            free = self(sample, timestep, condition, torch.zeros_like(emotion))
        return torch.lerp(free, given, guidance_scale)

    def decode(self, sample: Tensor) -> Tensor:
        """Turn (B, 3, T, H, W) in [-1, 1] into (B, T, 3, H, W) uint8 frames."""
        frames = ((sample.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return rearrange(frames, "b c t h w -> b t c h w")

    def _carrier(self, reference: Tensor, reference_landmarks: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the picture (B, 3, H, W) uint8 or the warped video (B, T, 3, H, W) in [0, 1], and the field."""
        frames, size = target.shape[1], (reference.shape[-2], reference.shape[-1])
        if self.config.carrier == "reference" and not self.config.field_channels:
            return reference, reference.new_zeros(())
        field = thin_plate_spline_field(reference_landmarks, target, size)
        if self.config.carrier == "reference":
            return reference, field
        pictures = repeat(reference.float() / 255, "b c h w -> (b t) c h w", t=frames)
        warped = displace(pictures, field.flatten(0, 1))
        return rearrange(warped, "(b t) c h w -> b t c h w", t=frames), field

    def _mask_arguments(self) -> dict:
        scale = self.config.size / _BASE_SIZE
        half = round((self.config.kernel_size - 1) / 2 * scale)
        return {
            "sigma": self.config.sigma * scale,
            "kernel_size": 2 * half + 1,
            "threshold": self.config.threshold / scale,
            "overlap": self.config.overlap,
        }

    def _channels(self, noise: Tensor, carrier: Tensor, still: Tensor, field: Tensor, landmarks: Tensor) -> Tensor:
        config = self.config
        parts = [noise[:, :0]]
        parts += [carrier] if config.carrier_channels else []
        parts += [still] if config.reference_channels else []
        parts += [noise] if config.noise_channels else []
        if config.field_channels:
            parts.append(rearrange(field, "b t h w d -> b d t h w") * (16 / config.size))
        if config.map_channels:
            side = (config.size, config.size)
            parts.append(landmark_maps(landmarks, side, sigma=config.map_sigma * config.size / _BASE_SIZE))
        return torch.cat(parts, 1)


def move(video: Tensor, flow: Tensor) -> Tensor:
    """Sample a video (B, C, T, H, W) at its pixels' places plus ``flow`` (B, 2, T, H, W), (x, y) px; bilinear."""
    pictures = rearrange(video, "b c t h w -> (b t) c h w")
    moved = displace(pictures, rearrange(flow, "b d t h w -> (b t) h w d").to(video))
    return rearrange(moved, "(b t) c h w -> b c t h w", t=video.shape[2])


def has_fast_bf16(device: torch.device) -> bool:
    """Say whether ``device`` computes bf16 natively: every GPU since Ampere, and CPUs with AVX512-BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool(torch.cpu.get_capabilities().get("avx512_bf16"))
