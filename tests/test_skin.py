"""The light of a face: gains that are known come back, and one head's own movement changes nothing."""

import pytest
import torch

from talkhead.face.skin import skin_colour, with_skin_of
from tests.test_mixed_face import face


@pytest.mark.parametrize("size", [64, 128, 256])
def test_skin_is_looked_at_on_nose_and_cheeks(size):
    """A picture whose brightness grows from left to right, and a face that is the same on either side of the middle."""
    ramp = torch.linspace(0, 1, size).expand(1, 3, size, size)
    assert skin_colour(ramp, face()[None] * (size / 128))[0, 0].item() == pytest.approx(0.5, abs=0.02)
    lit = torch.zeros(1, 3, size, size)
    lit[..., : size // 4, :] = 1.0  # hair
    lit[..., 72 * size // 128 :, 48 * size // 128 : 80 * size // 128] = 1.0  # lips, and chin
    assert skin_colour(lit, face()[None] * (size / 128)).max() < 0.05


def test_another_light_is_taken_back_and_the_same_left_alone():
    picture, points = 0.2 + 0.2 * torch.rand(1, 3, 128, 128), face()[None]
    gains = torch.tensor([[1.6, 1.0, 0.7], [1.01, 1.0, 0.99]])
    further = picture[:, None] * gains[None, ..., None, None]
    lit = with_skin_of(picture, points, further, points[:, None].repeat(1, 2, 1, 1))
    torch.testing.assert_close(lit[0, 0], picture[0], atol=0, rtol=0.02)  # a tenth of s^2 / d is left
    assert (lit[0, 1] / further[0, 1] - 1).abs().max() < 0.0015  # d^3 / s^2 of what differs by 1%
    missing = with_skin_of(picture, points, further, torch.full((1, 2, 68, 2), torch.nan))
    assert missing.isfinite().all()
