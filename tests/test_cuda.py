"""On a graphics card: networks answer as on the CPU, the pipeline makes the same video, nothing waits for the card."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from importlib.resources import files

import pytest
import torch
from torch import Tensor

from talkhead.modules.recorded import Recorded
from talkhead.nets.conformer import ConformerClassifier
from talkhead.nets.landmark import LandmarkNet
from talkhead.nets.renderer import Renderer
from talkhead.pipeline import TalkingHeadPipeline
from talkhead.schedulers import MaskNoiseBridgeScheduler

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
SPEAKER = files("talkhead") / "assets" / "speaker"


@pytest.fixture(autouse=True)
def full_float32() -> Iterator[None]:
    """Compute float32 in float32, not in TF32, so that the CPU is an independent truth."""
    matmul, convolution = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, convolution


@contextmanager
def no_waiting() -> Iterator[None]:
    """Raise where the host waits for the card."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def both(make) -> tuple[Tensor, Tensor]:
    """Return what ``make(device)`` gives on the CPU and on the card."""
    with torch.no_grad():
        return make("cpu").float(), make("cuda").float().cpu()


def renderer_inputs(frames: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return picture, its landmarks, the frames' landmarks and an emotion for 128 px."""
    generator = torch.Generator().manual_seed(3)
    face = 64 + 20 * torch.randn(1, 68, 2, generator=generator)
    moved = face[:, None] + torch.randn(1, frames, 68, 2, generator=generator)
    picture = torch.randint(0, 256, (1, 3, 128, 128), dtype=torch.uint8, generator=generator)
    return picture, face, moved, torch.full((1, 8), 1 / 8)


def test_mask_noise_of_the_renderer_has_the_same_bits() -> None:
    renderer = Renderer(widths=(8, 16), carrier="reference", output="plain", field_channels=False)
    picture, face, moved, _ = renderer_inputs()

    def noise(device: str) -> Tensor:
        return renderer.prepare(picture.to(device), face.to(device), moved.to(device), seed=5).noise

    assert torch.equal(*both(noise))


def test_renderer_answers_as_on_the_cpu() -> None:
    renderer = Renderer.from_pretrained(SPEAKER / "renderer").eval()
    inputs = renderer_inputs()

    def answer(device: str) -> Tensor:
        picture, face, moved, emotion = (x.to(device) for x in inputs)
        net = renderer.to(device)
        condition = net.prepare(picture, face, moved)
        return net(condition.noise, 999, condition, emotion)

    cpu, cuda = both(answer)
    # The mask is the same; what differs is float32's rounding through some forty layers, in [-1, 1].
    assert (cpu - cuda).abs().mean() < 1e-4 and (cpu - cuda).abs().max() < 2e-2


@pytest.mark.parametrize("part", ["landmark", "emotion"])
def test_nets_answer_as_on_the_cpu(part: str) -> None:
    kind = LandmarkNet if part == "landmark" else ConformerClassifier
    net = kind.from_pretrained(SPEAKER / part).eval()
    sound, face = 0.1 * torch.randn(2, 32_000), renderer_inputs()[1].expand(2, -1, -1)
    emotion = torch.full((2, 8), 1 / 8)

    def answer(device: str) -> Tensor:
        net.to(device)
        if part == "emotion":
            return net.probabilities(sound.to(device))
        return net(sound.to(device), face.to(device), emotion.to(device), 50)

    cpu, cuda = both(answer)
    assert (cpu - cuda).abs().max() < (1e-3 if part == "emotion" else 2e-2)  # probabilities; px


@pytest.mark.parametrize("steps", [1, 4])
def test_pipeline_makes_the_same_video(steps: int) -> None:
    from PIL import Image

    sound = 0.1 * torch.randn(24_000)
    videos = []
    for device in ("cpu", "cuda"):
        pipeline = TalkingHeadPipeline.from_pretrained("bundled", device)
        face = torch.tensor(pipeline.info["reference_landmarks"])
        portrait = Image.open(SPEAKER / "portrait.png")
        videos.append(pipeline(portrait, sound, reference_landmarks=face, num_inference_steps=steps).frames.double())
    error = (videos[0] - videos[1]).square().mean()
    assert 10 * torch.log10(255**2 / error) > 38  # dB: the card paints in bf16, a CPU without it in float32


def test_a_recorded_network_trains_as_it_does_by_itself() -> None:
    plain = Renderer.from_pretrained(SPEAKER / "renderer").unet.to("cuda").train()
    replayed = deepcopy(plain)
    replayed.forward = Recorded(replayed)  # type: ignore[method-assign]
    config, draws = plain.config, torch.Generator().manual_seed(0)
    for _ in range(3):  # the second adds to the first's gradients; the third is replayed again
        sample = [torch.randn(2, config.in_channels, 4, 128, 128, generator=draws).cuda()]
        coarse = torch.randn(2, config.coarse_channels, 4, 64, 64, generator=draws).cuda()
        still = torch.randn(2, config.still_channels, 128, 128, generator=draws).cuda()
        told = torch.tensor([999, 400], device="cuda"), torch.full((2, 8), 1 / 8, device="cuda"), coarse, still, 0, 0
        answers = plain(sample, *told), replayed(sample, *told)
        torch.testing.assert_close(answers[1], answers[0], rtol=1e-4, atol=1e-4)
        for answer in answers:
            answer.square().mean().backward()
        for got, wanted in zip(replayed.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(got.grad, wanted.grad, rtol=1e-2, atol=1e-5)


def test_painting_never_waits_for_the_card() -> None:
    renderer = Renderer.from_pretrained(SPEAKER / "renderer").to("cuda").eval()
    picture, face, moved, emotion = (x.to("cuda") for x in renderer_inputs())
    scheduler = MaskNoiseBridgeScheduler()
    scheduler.set_timesteps(4)

    def paint() -> Tensor:
        with torch.inference_mode():
            condition = renderer.prepare(picture, face, moved)
            sample = condition.noise
            for timestep in scheduler.timesteps.tolist():
                predicted = renderer.predict(sample, timestep, condition, emotion)
                sample = scheduler.step(predicted, timestep, sample).prev_sample
            return renderer.decode(sample)

    paint()  # compiles and allocates
    with no_waiting():
        paint()
