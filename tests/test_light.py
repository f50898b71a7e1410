"""The light of one picture given to another: known gains come back, whatever hangs before the skin."""

import math

import pytest
import torch
import torch.nn.functional as F

from talkhead.face.frame import face_frame
from talkhead.face.light import in_light, light_between
from tests.conftest import tiny_face

POINTS = tiny_face(128)


def skin() -> torch.Tensor:
    """(3, 128, 128) in 70..130: a smooth face."""
    noise = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    return 70 + 60 * F.interpolate(noise[None], (128, 128), mode="bicubic", align_corners=False)[0].clamp(0, 1)


def settled(change: torch.Tensor, usual: float) -> torch.Tensor:
    """Return what remains of a change where one video's frames differ by ``usual``."""
    return change**3 / (change**2 + usual**2)


def between(pictures: torch.Tensor, face: torch.Tensor) -> torch.Tensor:
    return light_between(pictures, POINTS.expand(len(pictures), 68, 2), face, POINTS)


def test_known_gains_come_back_and_undo_what_they_did():
    gains = torch.tensor([[1.5, 1.0, 0.7], [0.5, 0.6, 0.8]])
    pictures = skin() * gains[..., None, None]
    light = between(pictures, skin())
    wanted = settled(-gains.log(), 0.03)
    torch.testing.assert_close(light[..., 0], wanted, atol=1e-3, rtol=0)
    torch.testing.assert_close(light[..., 1:3], torch.zeros(2, 3, 2), atol=1e-3, rtol=0)
    back = in_light(pictures.round().to(torch.uint8), POINTS.expand(2, 68, 2), light)
    assert (back - skin()).abs().max() <= 2.5  # half a level where it was halved, and the 0.6% kept


def test_a_lamp_at_one_side_is_taken_back_to_both():
    """The brightness falls by exp(-0.4) over one face size to the right."""
    origin, axes = face_frame(POINTS)
    across = (torch.arange(128) - origin[0, 0]) / axes[0].norm()
    light = between((skin() * (-0.4 * across).exp())[None], skin())
    torch.testing.assert_close(light[..., 0], torch.zeros(1, 3), atol=2e-3, rtol=0)
    assert light[0, :, 1].tolist() == pytest.approx([0.4**3 / (0.4**2 + 0.05**2)] * 3, abs=2e-3)


def test_another_cameras_contrast_is_taken_back():
    """Levels raised to 1.5 about 100: the logarithms lie 1.5 times as far apart."""
    dark = skin()
    dark[:, 24:46] *= 0.4  # brows and eyes
    other = 100 * (dark / 100) ** 1.5
    light = between(other[None], dark)
    assert light[0, :, 2].tolist() == pytest.approx([settled(torch.tensor(-1 / 3), 0.1).item()] * 3, abs=0.02)
    back = in_light(other[None].round().clamp(0, 255).to(torch.uint8), POINTS[None], light)[0].float()
    assert (back - dark).abs().mean() < 0.25 * (other - dark).abs().mean()


def test_frames_of_one_video_stay_as_they_are():
    """A gain of 1%, as a head that moves has it, is hardly touched: 0.1% of it."""
    assert between(skin()[None] * 1.01, skin())[..., :3].abs().max() < 0.0015


@pytest.mark.parametrize("hidden", [0.0, 0.2, 0.4])
def test_hair_before_a_part_of_the_skin_does_not_count(hidden: float):
    """Black strands in the picture alone, over a share of the skin; the mouth may change as it likes."""
    picture = skin() * 0.8
    picture[:, :, torch.arange(128) % 10 < 10 * hidden] = 20.0
    mouth = int(POINTS[48:68, 1].min())
    picture[:, mouth:] = 200.0
    light = between(picture[None], skin())
    assert light[0, :, 0].exp().tolist() == pytest.approx([1.25] * 3, rel=0.012)


def test_a_face_in_the_dark_and_a_burnt_one_keep_their_light():
    for level in (2.0, 255.0):
        assert not between(torch.full((1, 3, 128, 128), level), skin()).any()


def test_pictures_that_lie_elsewhere_and_are_larger_are_matched_where_the_face_is():
    """The same face, shifted; its light is read at 128 px and laid on the picture at 256 px."""
    shifted = torch.roll(skin(), (4, 6), (1, 2)) * 1.25
    points = POINTS + torch.tensor([6.0, 4.0])
    light = light_between(shifted[None], points[None], skin(), POINTS)
    assert light[0, :, 0].tolist() == pytest.approx([-math.log(1.25)] * 3, abs=0.01)
    large = torch.full((1, 3, 256, 256), 100, dtype=torch.uint8)
    assert (in_light(large, (points[None] + 0.5) * 2 - 0.5, light).float() - 80).abs().max() <= 2
