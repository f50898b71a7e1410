"""The renderer: from one picture and a sequence of landmarks to the frames that lie on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from einops import rearrange
from torch import Tensor

from talkhead.devices import has_fast_bf16
from talkhead.face.mouth_bank import likeness, mixed, mouth_bank, mouth_opening_map, shares
from talkhead.face.warp import compose, thin_plate_spline_field
from talkhead.face.warp import sample as sample_picture
from talkhead.nets.condition import Condition
from talkhead.nets.unet3d import UNet3D
from talkhead.ops.mask_noise import landmark_maps, mask_noise
from talkhead.ops.patches import block_means, check_sides

_OUTPUTS = {"plain": 3, "residual": 3, "alpha": 4, "flow": 5}  # channels that the U-Net must answer
_FLOW_UNIT = 2.0  # px at 128 px that an answer of one moves the carrier: the order of what the spline gets wrong
_BASE_SIZE = 128  # px at which sigma, kernel_size and map_sigma are given; they grow with the frame
_COARSE = 2  # px between the places of conditions that are smooth
_ODDS = 5.0  # the network multiplies a picture's odds by no more than e^5


class Renderer(ModelMixin, ConfigMixin):
    r"""The video diffusion's network with its conditioning: the paper's Mask-Noise and Class-Diffusion layers.

    With carrier c (the reference picture, repeated or warped to the landmarks), mask-noised carrier n (Eqs. 1-2) and
    sample x_s, the network's output is

    * ``output="plain"``: U(x_s, ...), the paper;
    * ``output="residual"``: c + r U(x_s, tanh((x_s - c) / r), ...), so that what need not change is copied;
    * ``output="alpha"``: c + sigmoid(a) (p - c), a and p both from U(x_s, tanh((x_s - c) / r), ...);
    * ``output="flow"``: the reference sampled once by the spline's displacement after f, plus r u, f (px) and u both
      from U(x_s, tanh((x_s - c) / r), ...). The spline knows 68 points of the face; hair, ears, collar and shoulders
      move with laws of their own, which f learns. Sampling once, by both together, keeps the picture's sharpness.

    With ``bank`` > 0 further pictures of the person may be given. Each frame is offered the ``bank`` ones most like it,
    mixed into the warped carrier (see ``mouth_bank``); for each the network answers one more channel, the logarithm of
    what its share's odds are multiplied by.

    With ``doubt`` d > 0 the residual r u becomes (1 - d l) r u outside training, l being the ``likeness`` of the
    frame's mouth to the most like one in the pictures given. u was learnt from few people and is in part theirs: where
    a picture of the person himself shows nearly the frame's mouth, less of u is nearer to the truth (shrinkage: James &
    Stein, 1961).

    The frame differs from a warped carrier by about a tenth of the pictures' own range (0.06 in [-1, 1] on GRID). The
    scale r brings what the network must see and say to the order of one, as c_in and c_out do in Karras et al. (2022):
    without it Adam's own jitter at the last layer is as large as the whole residual, and training crawls.

    Args:
        size: side of the square frames in px, a multiple of patch * 2 ** (len(widths) - 1); others are refused.
        widths, blocks, patch, attention_levels, gradient_checkpointing: see ``UNet3D``.
        carrier: the picture that carries the noise: ``"reference"`` (the paper) or ``"warped"`` (thin-plate spline).
        output: see above.
        residual_scale: r.
        carrier_channels: give the carrier to the network beside the sample.
        reference_channels: give the reference picture itself to the network, repeated.
        field_channels: give the spline's displacement to the network, in 16ths of the frame: how the head has moved.
        noise_channels: give the mask-noised carrier to the network at every step.
        map_channels: give soft Gaussian maps of the landmarks, one for each of 6 groups.
        opening_channel: give a map of what lies between the lips of an open mouth.
        coarse: give field and maps at half the resolution (they are smooth), and the reference once for all frames:
            much less to compute.
        bank: N, how many further pictures of the person each frame is offered.
        doubt: d in [0, 1], what share of the residual is not believed where a picture shows the frame's own mouth.
        sigma, kernel_size, threshold, overlap: the mask's, see ``mask_noise``; the first two in px at 128 px, scaled
            with ``size``, the threshold against it so that the discs scale too.
        map_sigma: standard deviation of the soft maps, px at 128 px.
        trained_on: emotions that the training data had, filled in when training begins; None: not known, taken for
            neutral alone. A pipeline never gives a renderer the embedding of another.

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
        opening_channel: bool = False,
        coarse: bool = False,
        bank: int = 0,
        doubt: float = 0.0,
        sigma: float = 2.0,
        kernel_size: int = 11,
        threshold: float = 0.01,
        overlap: Literal["max", "sum"] = "max",
        map_sigma: float = 2.0,
        trained_on: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if carrier not in ("reference", "warped"):
            raise ValueError(f"carrier must be 'reference' or 'warped'; got {carrier!r}")
        if output not in _OUTPUTS:
            raise ValueError(f"output must be one of {', '.join(_OUTPUTS)}; got {output!r}")
        if coarse and patch % _COARSE:
            raise ValueError(f"coarse conditions need an even patch, to be folded into it; got patch={patch}")
        if bank and output != "flow":
            raise ValueError(f"bank={bank} needs output='flow', which mixes pictures; got output={output!r}")
        if not 0 <= doubt <= 1:
            raise ValueError(f"doubt must be from 0, all is believed, to 1; got {doubt}")
        smooth = 2 * field_channels + 6 * map_channels + opening_channel
        sharp = 3 + 3 * (output != "plain") + 3 * (carrier_channels + noise_channels) + 4 * bank
        self.unet = UNet3D(
            in_channels=sharp + (0 if coarse else smooth + 3 * reference_channels),
            out_channels=_OUTPUTS[output] + bank,
            widths=widths,
            blocks=blocks,
            patch=patch,
            attention_levels=attention_levels,
            gradient_checkpointing=gradient_checkpointing,
            coarse_channels=smooth if coarse else 0,
            still_channels=3 * reference_channels if coarse else 0,
        )
        check_sides("size", [size], self.unet.multiple)

    def weights_for(self, other: Renderer) -> dict[str, Tensor]:
        """Return the weights with which another begins where this one is; grown, where its frames and patches are."""
        factor = other.config.size // self.config.size
        if factor < 2 or any(other.config[name] != factor * self.config[name] for name in ("size", "patch")):
            return self.state_dict()
        return {f"unet.{name}": weight for name, weight in self.unet.finer_weights(factor).items()}

    def prepare(
        self,
        reference: Tensor,
        reference_landmarks: Tensor,
        landmarks: Tensor,
        *,
        bank: tuple[Tensor, Tensor] | None = None,
        seed: int | Tensor = 0,
        frame_offset: int | Tensor = 0,
        blend: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> Condition:
        """Compute everything the network is told that does not change from step to step.

        Args:
            reference: (B, 3, H, W) picture, uint8 or float in [0, 1], H = W = ``size``.
            reference_landmarks: (B, 68, 2) px.
            landmarks: (B, T, 68, 2) px of the frames to paint.
            bank: further pictures of the person, (B, R, 3, H, W) like ``reference``, and their landmarks (B, R, 68, 2)
                px, NaN where a sample has fewer; None: none. A renderer without a bank does not look at them.
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
        with torch.autocast(reference.device.type, enabled=False):  # geometry and colours are float32, whatever runs
            picture = to_unit(reference)
            carrier, field = self._carrier(picture, reference_landmarks, landmarks)
            offered, shown = None, reference_landmarks[:, None]
            if self.config.bank and bank is not None and bank[0].shape[1]:
                shown = torch.cat([shown, bank[1].to(shown)], 1)
                further = to_unit(bank[0]), bank[1]
                offered = mouth_bank(*further, picture, reference_landmarks, landmarks, self.config.bank)
                carrier = mixed(carrier, offered).clamp(0, 1) if self.config.carrier == "warped" else carrier
            if blend is not None:
                blend = (to_unit(blend[0]), blend[1], blend[2])
            noise = mask_noise(
                carrier.transpose(1, 2), landmarks, **self._mask_arguments(), seed=seed, frame_offset=frame_offset,
                blend=blend,
            )  # fmt: skip
            assert isinstance(noise, Tensor)  # no mask was asked for
            carrier, picture = carrier * 2 - 1, picture * 2 - 1
            sharp, coarse = self._channels(noise, carrier, picture, field, landmarks)
            moved = None if self.config.carrier == "reference" else field
            if offered is not None:  # the shares stay in [0, 1]
                offered = torch.cat([offered[:, :, :3] * 2 - 1, offered[:, :, 3:]], 2)
            alike = likeness(shown, landmarks) if self.config.doubt else None
            return Condition(noise, carrier, sharp, picture, coarse, moved, offered, alike)

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
        out = self._network(sample, timestep, condition, emotion)
        with torch.autocast(sample.device.type, enabled=False):
            return self._answer(out, condition)[0]

    def _network(self, sample: Tensor, timestep: Tensor | int, condition: Condition, emotion: Tensor) -> Tensor:
        """Return the U-Net's channels, float32."""
        if not isinstance(timestep, Tensor) or timestep.ndim == 0:  # filled, not copied: a copy waits for the device
            timestep = torch.full((len(sample),), int(timestep), device=sample.device)
        seen = [sample, condition.channels.to(sample)]
        if self.config.output != "plain":  # tanh by the sigmoid: a CPU's own takes it five times as long
            seen.append(2 * torch.sigmoid((sample - condition.carrier) * (2 / self.config.residual_scale)) - 1)
        if condition.bank is not None:
            share = condition.bank[:, :, 3:]
            seen.append(torch.cat([condition.bank[:, :, :3] * share, share], 2).flatten(1, 2))
        unused = self.config.bank if condition.bank is None else 0
        still = condition.picture if self.config.coarse and self.config.reference_channels else None
        return self.unet(seen, timestep, emotion, condition.coarse, still, 4 * unused, unused).float()

    def _answer(self, out: Tensor, condition: Condition) -> tuple[Tensor, Tensor | None]:
        """Turn the U-Net's channels into a prediction and the reference's displacement in it, if any."""
        if self.config.output == "plain":
            return out, condition.field
        if self.config.output == "alpha":
            alpha = torch.sigmoid(out[:, 3:])
            return condition.carrier + alpha * (out[:, :3] - condition.carrier), condition.field
        base, moved = condition.carrier, condition.field
        if self.config.output == "flow":
            assert condition.picture is not None
            moved = self._moved(condition, _FLOW_UNIT * self.config.size / _BASE_SIZE * out[:, 3:5])
            base = sample_picture(condition.picture, moved)
            if condition.bank is not None:
                share = shares(condition.bank, out[:, 5 : 5 + self.config.bank].clamp(-_ODDS, _ODDS).exp())
                base = mixed(base, condition.bank, share)
                moved = torch.cat([moved, rearrange(share, "b n t h w -> b t h w n")], -1)
        residual = self.config.residual_scale * out[:, :3]
        if condition.likeness is not None and not self.training:
            residual = residual * (1 - self.config.doubt * condition.likeness)[:, None, :, None, None]
        return base + residual, moved

    def _moved(self, condition: Condition, flow: Tensor) -> Tensor:
        """Return the spline's displacement after ``flow`` (B, 2, T, H, W) px: (B, T, H, W, 2) px."""
        if condition.field is not None:
            return compose(condition.field, flow)
        return rearrange(flow, "b d t h w -> b t h w d")

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

        See ``predict_displaced``, of which this is the picture.

        Args:
            sample: (B, 3, T, H, W) x_t in [-1, 1].
            timestep: (B,) or one integer step.
            condition: from ``prepare``.
            emotion: (B, 8) probabilities.
            guidance_scale: 1 follows the class, more exaggerates it: u + scale (c - u), u the prediction without class.
        """
        return self.predict_displaced(sample, timestep, condition, emotion, guidance_scale)[0]

    @torch.no_grad()
    def predict_displaced(
        self,
        sample: Tensor,
        timestep: Tensor | int,
        condition: Condition,
        emotion: Tensor,
        guidance_scale: float = 1.0,
    ) -> tuple[Tensor, Tensor | None]:
        """Predict as ``predict`` does, and say where each pixel of the reference has gone.

        Args:
            sample: (B, 3, T, H, W) x_t in [-1, 1].
            timestep: (B,) or one integer step.
            condition: from ``prepare``.
            emotion: (B, 8) probabilities.
            guidance_scale: as for ``predict``.

        Returns:
            (B, 3, T, H, W), and the displacement by which the reference was sampled, (B, T, H, W, 2 + N) px as in
            ``sample``, then the shares of a bank's pictures; None where the carrier is the reference itself.
        """

        def answer(told: Tensor) -> tuple[Tensor, Tensor | None]:
            with torch.autocast(sample.device.type, torch.bfloat16, enabled=has_fast_bf16(sample.device)):
                out = self._network(sample, timestep, condition, told)
            return self._answer(out, condition)

        given, moved = answer(emotion)
        if guidance_scale == 1.0:
            return given, moved
        free, still = answer(torch.zeros_like(emotion))
        if moved is not None and still is not None:
            moved = torch.lerp(still, moved, guidance_scale)
        return torch.lerp(free, given, guidance_scale), moved

    def decode(self, sample: Tensor) -> Tensor:
        """Turn (B, 3, T, H, W) in [-1, 1] into (B, T, 3, H, W) uint8 frames."""
        frames = ((sample.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return rearrange(frames, "b c t h w -> b t c h w")

    def _carrier(self, picture: Tensor, points: Tensor, target: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the carrier (B, 3, T, H, W) in [0, 1] and the spline's field (B, T, H, W, 2) where it is needed."""
        frames, size = target.shape[1], (picture.shape[-2], picture.shape[-1])
        still = picture[:, :, None].expand(-1, -1, frames, -1, -1)
        if self.config.carrier == "reference" and not self.config.field_channels:
            return still, None
        field = thin_plate_spline_field(points, target, size)
        if self.config.carrier == "reference":
            return still, field
        return sample_picture(picture, field).clamp(0, 1), field

    def _mask_arguments(self) -> dict:
        scale = self.config.size / _BASE_SIZE
        half = round((self.config.kernel_size - 1) / 2 * scale)
        return {
            "sigma": self.config.sigma * scale,
            "kernel_size": 2 * half + 1,
            "threshold": self.config.threshold / scale,
            "overlap": self.config.overlap,
        }

    def _channels(
        self, noise: Tensor, carrier: Tensor, picture: Tensor, field: Tensor | None, landmarks: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Return the condition channels at the frames' resolution and those at half of it."""
        config, frames = self.config, landmarks.shape[1]
        sharp = [noise[:, :0]]
        sharp += [carrier] if config.carrier_channels else []
        if config.reference_channels and not config.coarse:
            sharp.append(picture[:, :, None].expand(-1, -1, frames, -1, -1))
        sharp += [noise] if config.noise_channels else []
        stride = _COARSE if config.coarse else 1
        side = config.size // stride
        smooth = []
        if field is not None and config.field_channels:
            shift = block_means(rearrange(field, "b t h w d -> b d t h w"), stride)
            smooth.append(shift * (16 / config.size))
        if config.map_channels:
            points = (landmarks + 0.5) / stride - 0.5
            smooth.append(
                landmark_maps(points, (side, side), sigma=config.map_sigma * config.size / _BASE_SIZE / stride)
            )
        if config.opening_channel:
            opening = mouth_opening_map(landmarks, (config.size, config.size))
            smooth.append(block_means(opening, stride)[:, None])
        if config.coarse:
            return torch.cat(sharp, 1), torch.cat(smooth, 1) if smooth else None
        return torch.cat(sharp + smooth, 1), None


def to_unit(frames: Tensor) -> Tensor:
    """Turn frames, uint8 or float in [0, 1], into float32 in [0, 1]."""
    return frames.float() / 255 if frames.dtype == torch.uint8 else frames.float()
