"""Which pictures a frame is offered, and where; the outline's distance against closed forms."""

import math

import pytest
import torch

from talkhead.face.mouth_bank import (
    likeness,
    lip_map,
    mixed,
    mouth_bank,
    mouth_opening_map,
    mouth_shape,
    nearest_mouths,
    nearest_pictures,
    shares,
)
from talkhead.face.polygon import signed_distance


def face(opening: float, width: float = 40.0, size: float = 128.0) -> torch.Tensor:
    """(68, 2) px: two eyes 50 px apart and a rectangular mouth, ``opening`` px between the inner lips."""
    points = torch.full((68, 2), size / 2)
    points[36:42] = torch.tensor([39.0, 50.0])
    points[42:48] = torch.tensor([89.0, 50.0])
    xs = torch.linspace(64 - width / 2, 64 + width / 2, 7)
    points[48:55] = torch.stack([xs, torch.full((7,), 88 - opening / 2 - 4)], -1)
    points[55:60] = torch.stack([xs[1:6].flip(0), torch.full((5,), 88 + opening / 2 + 4)], -1)
    inner = torch.linspace(64 - width / 2 + 4, 64 + width / 2 - 4, 5)
    points[60:65] = torch.stack([inner, torch.full((5,), 88 - opening / 2)], -1)
    points[65:68] = torch.stack([inner[1:4].flip(0), torch.full((3,), 88 + opening / 2)], -1)
    return points * (size / 128)


def test_distance_to_a_circle():
    angle = torch.arange(256) * 2 * math.pi / 256
    circle = torch.stack([32 + 10 * angle.cos(), 30 + 10 * angle.sin()], -1)
    found = signed_distance(circle, (64, 64), stride=2)
    centres = torch.arange(0, 64, 2) + 0.5
    xs, ys = torch.meshgrid(centres, centres, indexing="xy")
    truth = ((xs - 32) ** 2 + (ys - 30) ** 2).sqrt() - 10
    torch.testing.assert_close(found, truth, atol=0.01, rtol=0)  # 256 corners: the chords cut 0.0008 px off


def test_mouth_shape_is_in_eye_distances():
    torch.testing.assert_close(mouth_shape(face(10.0)), torch.tensor([10 / 50, 18 / 50, 40 / 50]))
    torch.testing.assert_close(mouth_shape(face(10.0, size=256.0)), mouth_shape(face(10.0)))


def test_the_nearest_mouths_come_first_and_what_is_missing_is_not_relied_on():
    bank = torch.stack([face(0.0), face(20.0), face(9.0), torch.full((68, 2), float("nan"))])[None]
    index, trust = nearest_mouths(bank, face(10.0)[None, None], 4)
    assert index[0, 0, :3].tolist() == [2, 1, 0] or index[0, 0, :3].tolist() == [2, 0, 1]
    squared = 2 * (1 / 50) ** 2  # inner and outer height differ by 1 px of 50
    assert trust[0, 0, 0].item() == pytest.approx(math.exp(-squared / 0.02), rel=1e-3)
    assert trust[0, 0, 3] == 0
    assert nearest_mouths(bank[:, :1], face(10.0)[None, None], 2)[1][0, 0, 1] == 0  # fewer pictures than asked for


def test_of_a_large_bank_what_no_frame_takes_changes_nothing():
    openings = [0.0, 20.0, 4.0, 30.0, 8.0, 40.0]
    pictures, points = torch.rand(1, 6, 3, 128, 128), torch.stack([face(opening) for opening in openings])[None]
    frames = torch.stack([face(1.0), face(9.0)])[None]
    own = torch.rand(1, 3, 128, 128), face(0.0)[None]
    few = [0, 2, 4]
    torch.testing.assert_close(
        mouth_bank(pictures, points, *own, frames, 2), mouth_bank(pictures[:, few], points[:, few], *own, frames, 2)
    )


def test_a_sample_without_pictures_changes_nothing_for_the_others():
    pictures, points = torch.rand(3, 2, 3, 128, 128), torch.stack([face(0.0), face(9.0)]).repeat(3, 1, 1, 1)
    points[1], points[2, 1] = torch.nan, torch.nan
    frames, own = torch.stack([face(1.0), face(8.0)]).repeat(3, 1, 1, 1), face(4.0).repeat(3, 1, 1)
    together = mouth_bank(pictures, points, pictures[:, 0], own, frames, 2)
    for at, there in enumerate([2, 0, 1]):
        alone = mouth_bank(pictures[[at]], points[[at]], pictures[[at], 0], own[[at]], frames[[at]], 2)
        torch.testing.assert_close(together[at, :, 3], alone[0, :, 3])
        torch.testing.assert_close(together[at, :there], alone[0, :there])
        assert (together[at, :, 3].amax((1, 2, 3)) > 0).tolist() == [there > 0, there > 1]
    assert together.isfinite().all()


def test_likeness_is_that_of_the_most_like_picture():
    pictures = torch.stack([face(0.0), face(9.0), torch.full((68, 2), float("nan"))])[None]
    frames = torch.stack([face(10.0), face(0.0), face(40.0)])[None]
    found = likeness(pictures, frames)
    squared = 2 * (1 / 50) ** 2  # inner and outer height differ by 1 px of 50
    assert found[0, 0].item() == pytest.approx(math.exp(-squared / (2 * 0.05**2)), rel=1e-3)
    assert found[0, 1] == 1 and found[0, 2] < 1e-6
    assert likeness(pictures[:, 2:], frames).max() == 0  # no picture at all


def test_the_likest_mouth_has_the_frames_lower_face():
    picture = 0.4 + 0.2 * torch.rand(1, 2, 3, 128, 128)
    points = torch.stack([face(0.0), face(12.0)])[None]
    offered = mouth_bank(picture, points, picture[:, 0], face(0.0)[None], face(12.0)[None, None], 1)
    torch.testing.assert_close(offered[0, 0, :3, 0], picture[0, 1], atol=0.02, rtol=0)  # but for a little light
    share = offered[0, 0, 3, 0]
    assert share[88, 64] > 0.98 and share[50, 39] < 0.05 and share[10, 64] < 1e-3
    lips = lip_map(face(12.0)[None, None], (128, 128))[0, 0] > 0.5
    assert share[lips].min() > 0.9 and (share > 0.5).sum() > 2 * lips.sum()  # cheeks and chin move with the mouth


def test_shares_by_hand():
    """Heights inside and outside differ by 12 and by 1 px of 50: d^2 = 0.1152 and 0.0008, over 2 * 0.05^2."""
    points = torch.stack([face(11.0), face(12.0), torch.full((68, 2), float("nan"))])[None]
    grey = torch.full((1, 3, 3, 128, 128), 0.5)
    offered = mouth_bank(grey, points, grey[:, 0], face(8.0)[None], face(12.0)[None, None], 3)
    # The portrait's heights differ by 4 px, and it is e times as likely as another that is as like.
    weights = torch.tensor([1.0, math.exp(-0.0008 / 0.005), 0.0, math.exp(1 - 2 * (4 / 50) ** 2 / 0.005)])
    shares = offered[0, :, 3, 0, 88, 64]
    torch.testing.assert_close(shares, weights[:3] / weights.sum() * shares.sum() * weights.sum() / weights[:3].sum())
    assert shares.sum().item() == pytest.approx(weights[:3].sum().item() / weights.sum().item(), rel=5e-3)


def test_a_turned_head_is_less_like_the_frame():
    turned = face(12.0)
    turned[27:36, 0] += 10.0  # the nose to one side, a fifth of the eyes' distance
    grey = torch.full((1, 2, 3, 128, 128), 0.5)
    points = torch.stack([turned, face(13.0)])[None]
    assert nearest_pictures(points, face(12.0)[None, None], 1)[0].item() == 1
    assert nearest_mouths(points, face(12.0)[None, None], 1)[0].item() == 0  # the mouth itself is the same
    shares = mouth_bank(grey, points, grey[:, 0], face(0.0)[None], face(12.0)[None, None], 2)[0, :, 3, 0, 88, 64]
    assert shares[0] > 0.9 and shares[1] < 0.01


def test_the_portrait_keeps_what_is_its_own():
    points = face(12.0)[None, None]
    portrait = torch.rand(1, 3, 1, 128, 128)
    bank = torch.zeros(1, 1, 3, 128, 128), face(0.0)[None, None]
    offered = mouth_bank(*bank, portrait[:, :, 0], face(12.0)[None], points, 2)
    assert (mixed(portrait, offered) - portrait).abs().max() < 1e-6  # no other mouth is like the frame's


def test_odds_by_hand():
    """Shares of 0.5, 0.3 and the portrait's 0.2, the first made twice as likely: 1, 0.3 and 0.2 of 1.5."""
    offered = torch.tensor([[1.0, 1.0, 1.0, 0.5], [0.5, 0.5, 0.5, 0.3]]).view(1, 2, 4, 1, 1, 1)
    portrait = torch.zeros(1, 3, 1, 1, 1)
    assert mixed(portrait, offered)[0, 0].item() == pytest.approx(0.5 * 1 + 0.3 * 0.5)
    odds = torch.tensor([2.0, 1.0]).view(1, 2, 1, 1, 1)
    assert mixed(portrait, offered, shares(offered, odds))[0, 0].item() == pytest.approx((1 + 0.3 * 0.5) / 1.5)


@pytest.mark.parametrize("size", [64, 128, 256])
def test_the_opening_map_scales_with_the_frame(size):
    maps = mouth_opening_map(torch.stack([face(24.0, size=size), face(0.0, size=size)])[None], (size, size))[0]
    middle = round(88 * size / 128)
    assert maps[0, middle, size // 2] > 0.95 and maps[0, 10 * size // 128, size // 2] < 0.01
    assert maps[1].max() < 0.25  # shut
    inside = (maps[0] > 0.5).float().mean().item() * 128**2
    # A trapezium of 24 px with sides of 32 and 16 px (at 128 px), less 0.75 px all around (its outline is 98.6 px).
    assert inside == pytest.approx(24 * (32 + 16) / 2 - 0.75 * 98.6, rel=0.15)
