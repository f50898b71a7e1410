"""The renderer: what goes in, what comes out, and what an untrained one must already do."""

import pytest
import torch

from talkhead.face.warp import thin_plate_spline_warp
from talkhead.nets.renderer import Renderer, has_fast_bf16, move
from talkhead.ops.mask_noise import mask_noise, to_network

SMALL = {"size": 32, "widths": (8, 16), "patch": 2}


@pytest.fixture
def scene() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A picture (1, 3, 32, 32), its landmarks, and the landmarks of 6 frames."""
    picture = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    source = 6 + 20 * torch.rand(1, 68, 2)
    return picture, source, source[:, None] + torch.randn(1, 6, 68, 2)


def uniform(batch: int = 1) -> torch.Tensor:
    return torch.full((batch, 8), 1 / 8)


@pytest.mark.parametrize("output", ["residual", "flow"])
def test_an_untrained_renderer_is_the_warp(scene, output):
    picture, source, target = scene
    renderer = Renderer(**SMALL, output=output).eval()
    condition = renderer.prepare(picture, source, target)
    painted = renderer.decode(renderer.predict(condition.noise, 999, condition, uniform()))
    warp = thin_plate_spline_warp(picture.float() / 255, source, target)
    assert (painted.float() - (warp * 255).round()).abs().max() <= 1  # one grey level of rounding


def test_the_papers_renderer_sees_the_noised_reference_and_nothing_else(scene):
    picture, source, target = scene
    renderer = Renderer(
        **SMALL, carrier="reference", output="plain", carrier_channels=False, field_channels=False, map_channels=False
    ).eval()
    condition = renderer.prepare(picture, source, target, seed=3)
    assert condition.channels.shape[1] == 0
    truth = mask_noise(picture, target, sigma=0.5, kernel_size=5, threshold=0.04, seed=3)  # scaled by 32 / 128
    assert torch.equal(condition.noise, truth)
    assert torch.equal(condition.carrier[:, :, 0], (picture.float() / 255 * 2 - 1))
    assert renderer(condition.noise, 999, condition, uniform()).abs().max() == 0


def test_alpha_output_mixes_paint_and_carrier(scene):
    picture, source, target = scene
    renderer = Renderer(**SMALL, output="alpha").eval()
    torch.nn.init.constant_(renderer.unet.head.bias, 0.0)
    condition = renderer.prepare(picture, source, target)
    out = renderer(condition.noise, 999, condition, uniform())
    torch.testing.assert_close(out, 0.5 * condition.carrier)  # paint 0, alpha sigmoid(0)


def test_flow_moves_pixels_by_what_it_says():
    video = torch.rand(1, 3, 2, 12, 12)
    flow = torch.zeros(1, 2, 2, 12, 12)
    flow[:, 0, 1], flow[:, 1, 1] = 2.0, -1.0
    moved = move(video, flow)
    torch.testing.assert_close(moved[:, :, 0], video[:, :, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(moved[:, :, 1, 1:, :-2], video[:, :, 1, :-1, 2:], atol=1e-5, rtol=0)


def test_condition_channels_are_counted(scene):
    renderer = Renderer(**SMALL, carrier_channels=True, reference_channels=True, noise_channels=True, map_channels=True)
    assert renderer.prepare(*scene).channels.shape == (1, 3 + 3 + 3 + 2 + 6, 6, 32, 32)
    assert renderer.unet.config.in_channels == 3 + 17 + 3  # the sample, the condition, the sample less the carrier


def test_noise_belongs_to_absolute_frames(scene):
    picture, source, target = scene
    renderer = Renderer(**SMALL)
    whole = renderer.prepare(picture, source, target, seed=5)
    part = renderer.prepare(picture, source, target[:, 2:5], seed=5, frame_offset=2)
    # The splines' systems are solved in float32, in batches of another size: a quarter of a grey level.
    torch.testing.assert_close(part.noise, whole.frames(2, 5).noise, atol=2e-3, rtol=0)
    other = renderer.prepare(picture, source, target, seed=6)
    assert not torch.equal(other.noise, whole.noise)


def test_guidance_extrapolates_from_the_classless_prediction(scene):
    renderer = Renderer(**SMALL).eval()
    torch.nn.init.normal_(renderer.unet.head.weight, std=0.1)
    for block in [*renderer.unet.down, *renderer.unet.up]:
        torch.nn.init.normal_(block[0].conv2.weight, std=0.1)
    condition = renderer.prepare(*scene)
    happy = torch.eye(8)[4:5]
    given = renderer.predict(condition.noise, 999, condition, happy)
    free = renderer.predict(condition.noise, 999, condition, torch.zeros(1, 8))
    strong = renderer.predict(condition.noise, 999, condition, happy, guidance_scale=3.0)
    assert (given - free).abs().max() > 1e-3
    torch.testing.assert_close(strong, free + 3 * (given - free), atol=1e-5, rtol=1e-4)


def test_range_and_back():
    frames = torch.randint(0, 256, (2, 3, 3, 8, 8), dtype=torch.uint8)
    network = to_network(frames)
    assert network.shape == (2, 3, 3, 8, 8) and network.min() >= -1 and network.max() <= 1
    assert torch.equal(Renderer(**SMALL).decode(network), frames)


def test_saved_and_loaded_it_paints_the_same(scene, tmp_path):
    renderer = Renderer(**SMALL, output="alpha", map_sigma=1.0).eval()
    torch.nn.init.normal_(renderer.unet.head.weight, std=0.1)
    renderer.save_pretrained(tmp_path)
    loaded = Renderer.from_pretrained(tmp_path).eval()
    condition = renderer.prepare(*scene)
    again = loaded.prepare(*scene)
    assert torch.equal(
        renderer.predict(condition.noise, 500, condition, uniform()), loaded.predict(again.noise, 500, again, uniform())
    )


def test_wrong_sizes_and_words_are_refused(scene):
    picture, source, target = scene
    with pytest.raises(ValueError, match=r"reference must be 64 x 64 px.*got \(32, 32\)"):
        Renderer(**{**SMALL, "size": 64}).prepare(picture, source, target)
    with pytest.raises(ValueError, match="carrier must be"):
        Renderer(**SMALL, carrier="warp")  # type: ignore[arg-type]


def test_bf16_is_only_used_where_it_is_native():
    assert has_fast_bf16(torch.device("cpu")) == bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    assert not has_fast_bf16(torch.device("meta"))
