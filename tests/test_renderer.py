"""The renderer: what goes in, what comes out, and what an untrained one must already do."""

import math

import pytest
import torch

from talkhead.devices import has_fast_bf16
from talkhead.face.warp import thin_plate_spline_warp
from talkhead.nets.renderer import Renderer
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
    warp = thin_plate_spline_warp(picture.float() / 255, source, target).clamp(0, 1)
    assert (painted.float() - (warp * 255).round()).abs().max() <= 1  # one grey level of rounding


def test_the_papers_renderer_sees_the_noised_reference_and_nothing_else(scene):
    picture, source, target = scene
    renderer = Renderer(
        **SMALL, carrier="reference", output="plain", carrier_channels=False, field_channels=False, map_channels=False
    ).eval()
    condition = renderer.prepare(picture, source, target, seed=3)
    assert condition.channels.shape[1] == 0
    truth = mask_noise(picture, target, sigma=0.5, kernel_size=5, threshold=0.04, seed=3)  # scaled by 32 / 128
    torch.testing.assert_close(condition.noise, truth, atol=1e-6, rtol=0)  # grey levels become floats earlier
    assert torch.equal(condition.carrier[:, :, 0], (picture.float() / 255 * 2 - 1))
    assert renderer(condition.noise, 999, condition, uniform()).abs().max() == 0


def test_alpha_output_mixes_paint_and_carrier(scene):
    picture, source, target = scene
    renderer = Renderer(**SMALL, output="alpha").eval()
    torch.nn.init.constant_(renderer.unet.head.bias, 0.0)
    condition = renderer.prepare(picture, source, target)
    out = renderer(condition.noise, 999, condition, uniform())
    torch.testing.assert_close(out, 0.5 * condition.carrier)  # paint 0, alpha sigmoid(0)


@pytest.mark.parametrize("carrier", ["warped", "reference"])
def test_flow_moves_pixels_by_what_it_says(scene, carrier):
    picture, source, _ = scene
    renderer = Renderer(**SMALL, output="flow", carrier=carrier, field_channels=carrier == "warped").eval()
    condition = renderer.prepare(picture, source, source[:, None].repeat(1, 2, 1, 1))  # the spline moves nothing
    out = torch.zeros(1, 5, 2, 32, 32)
    # An answer of one is 2 px at 128 px.
    out[:, 3, 1], out[:, 4, 1] = 4.0, -2.0
    moved = renderer._answer(out, condition)[0]
    still = picture.float() / 127.5 - 1
    torch.testing.assert_close(moved[:, :, 0], still, atol=1e-4, rtol=0)
    torch.testing.assert_close(moved[:, :, 1, 1:, :-2], still[:, :, :-1, 2:], atol=1e-4, rtol=0)


def test_a_bank_is_mixed_in_at_the_mouth_and_the_network_may_change_the_odds(scene):
    picture, source, target = scene
    renderer = Renderer(**SMALL, output="flow", bank=2).eval()
    bank = torch.randint(0, 256, (1, 3, 3, 32, 32), dtype=torch.uint8)
    condition = renderer.prepare(picture, source, target, bank=(bank, source[:, None].repeat(1, 3, 1, 1)))
    assert condition.bank.shape == (1, 2, 4, 6, 32, 32)
    out = torch.zeros(1, 7, 6, 32, 32)
    mixed = renderer._answer(out, condition)[0]
    assert (mixed - condition.carrier).abs().mean() < 5e-3  # an untrained network says nothing; the carrier is clamped
    out[:, 5], out[:, 6] = 100.0, -100.0  # all of the nearest mouth, none of the second
    share = condition.bank[:, 0, 3:] * math.exp(5)
    own = 1 - condition.bank[:, :, 3:].sum(1)
    warp = renderer.prepare(picture, source, target).carrier
    expected = (own * warp + share * condition.bank[:, 0, :3]) / (own + share)
    changed = renderer._answer(out, condition)[0]
    assert (changed - expected).abs().mean() < 1e-2 < (changed - mixed).abs().mean()
    without = renderer.prepare(picture, source, target)
    assert without.bank is None
    assert renderer(without.noise, 999, without, uniform()).shape == (1, 3, 6, 32, 32)


def test_the_residual_is_doubted_where_a_picture_shows_the_frames_mouth(scene):
    picture, source, target = scene
    renderer = Renderer(**SMALL, output="flow", bank=1, doubt=0.75, residual_scale=0.1).eval()
    target[:, 0] = source  # the portrait's own mouth
    bank = torch.randint(0, 256, (1, 1, 3, 32, 32), dtype=torch.uint8), target[:, 1:2]
    alone, helped = (renderer.prepare(picture, source, target, bank=given) for given in (None, bank))
    assert alone.likeness[0, 0] == 1 and alone.likeness[0, 1] < 1 and helped.likeness[0, :2].tolist() == [1, 1]
    out = torch.zeros(1, 6, 6, 32, 32)
    silent = renderer._answer(out, alone)[0]
    out[:, :3] = 1.0
    said = (renderer._answer(out, alone)[0] - silent).mean((0, 1, 3, 4))
    torch.testing.assert_close(said, 0.1 * (1 - 0.75 * alone.likeness[0]), atol=1e-6, rtol=0)
    said = (renderer.train()._answer(out, alone)[0] - silent).mean((0, 1, 3, 4))
    torch.testing.assert_close(said, torch.full((6,), 0.1), atol=1e-6, rtol=0)  # in training all of it is believed


def test_coarse_conditions_are_the_fine_ones_at_half_the_resolution(scene):
    coarse = Renderer(**SMALL, coarse=True, reference_channels=True, opening_channel=True)
    condition = coarse.prepare(*scene)
    assert condition.channels.shape[1] == 3 and condition.coarse.shape == (1, 2 + 6 + 1, 6, 16, 16)
    fine = Renderer(**SMALL).prepare(*scene).channels
    blocks = torch.nn.functional.avg_pool2d(fine[0, 3:5].transpose(0, 1), 2).transpose(0, 1)
    torch.testing.assert_close(condition.coarse[0, :2], blocks)
    painted = coarse(condition.noise, 999, condition, uniform())
    assert painted.shape == (1, 3, 6, 32, 32)
    with pytest.raises(ValueError, match="coarse conditions need an even patch"):
        Renderer(size=32, widths=(8, 16), patch=1, coarse=True)


def test_half_precision_moves_neither_the_spline_nor_the_colours(scene):
    renderer = Renderer(**SMALL, coarse=True, bank=1)
    plain = renderer.prepare(*scene)
    with torch.autocast("cpu", torch.bfloat16):
        under = renderer.prepare(*scene)
    for name in ("carrier", "noise", "field", "coarse"):
        assert torch.equal(getattr(plain, name), getattr(under, name)), name


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


@pytest.mark.parametrize("size", [64, 256])
def test_discs_fields_and_maps_grow_with_the_frame(size):
    """The same face at another size: the same shares of the picture are noised, marked and moved."""
    source = 30 + 68 * torch.rand(1, 68, 2)
    target = source[:, None] + 2 * torch.randn(1, 2, 68, 2)
    seen = {}
    for side in (128, size):
        renderer = Renderer(size=side, widths=(8, 16), patch=2)
        scale = side / 128
        moved = [(points + 0.5) * scale - 0.5 for points in (source, target)]
        condition = renderer.prepare(torch.full((1, 3, side, side), 255, dtype=torch.uint8), *moved)
        noised = (condition.noise < 0.999).float().mean().item()  # noise on white
        maps = condition.channels[:, 5:].mean((2, 3, 4))
        field = torch.nn.functional.adaptive_avg_pool2d(condition.channels[0, 3:5], 16)
        seen[side] = noised, maps, field
    assert seen[size][0] == pytest.approx(seen[128][0], rel=0.12)  # discs of whole pixels
    torch.testing.assert_close(seen[size][1], seen[128][1], rtol=0.05, atol=2e-3)
    # The lattice on which the spline is evaluated is 4 px at any size; the random points lie close together.
    torch.testing.assert_close(seen[size][2], seen[128][2], atol=0.1, rtol=0)


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
    with pytest.raises(ValueError, match="^output must be one of plain, residual, alpha, flow; got 'x'$"):
        Renderer(**SMALL, output="x")  # type: ignore[arg-type]
    for size, near in ((30, "28 or 32"), (3, "4"), (0, "4"), (-8, "4")):
        with pytest.raises(ValueError, match=f"^size must be a multiple of 4 px; got {size}: take {near}$"):
            Renderer(**{**SMALL, "size": size})
    with pytest.raises(ValueError, match="doubt must be from 0"):
        Renderer(**SMALL, doubt=1.5)


def test_bf16_is_only_used_where_it_is_native():
    assert has_fast_bf16(torch.device("cpu")) == bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    assert not has_fast_bf16(torch.device("meta"))
