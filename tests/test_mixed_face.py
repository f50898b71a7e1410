"""A face mixed of two: what comes from whom, and where."""

import math

import torch

from talkhead.augmentation.pictures import mingle
from talkhead.face.mixed_face import mixed_face


def face(shift: float = 0.0) -> torch.Tensor:
    """(68, 2) px at 128 px: a half circle for a jaw, brows above it, nose, eyes and a shut mouth within."""
    points = torch.full((68, 2), 64.0)
    angle = torch.linspace(math.pi, 0, 17)
    points[:17] = torch.stack([64 + 40 * angle.cos(), 50 + 45 * angle.sin()], -1)
    points[17:27] = torch.stack([torch.linspace(28, 100, 10), torch.full((10,), 40.0)], -1)
    points[27:36] = torch.stack([torch.full((9,), 64.0), torch.linspace(45, 66, 9)], -1)
    points[36:42] = torch.tensor([48.0, 50.0]) + torch.linspace(0, 1, 12).view(6, 2)
    points[42:48] = torch.tensor([80.0, 50.0]) + torch.linspace(0, 1, 12).view(6, 2)
    points[48:55] = torch.stack([torch.linspace(50, 78, 7), torch.full((7,), 76.0)], -1)
    points[55:60] = torch.stack([torch.linspace(74, 54, 5), torch.full((5,), 82.0)], -1)
    points[60:65] = torch.stack([torch.linspace(54, 74, 5), torch.full((5,), 79.0)], -1)
    points[65:68] = torch.stack([torch.linspace(70, 58, 3), torch.full((3,), 79.0)], -1)
    return points + shift


def with_dot(x: float, y: float, level: float) -> torch.Tensor:
    """(1, 1, 3, 128, 128): a plain picture with a bright spot."""
    ys, xs = torch.meshgrid(torch.arange(128), torch.arange(128), indexing="ij")
    spot = 0.4 * torch.exp(-((xs - x) ** 2 + (ys - y) ** 2) / 8.0)
    return (level + spot)[None, None, None].repeat(1, 1, 3, 1, 1)


def test_a_spot_on_the_others_cheek_comes_to_the_same_place_in_half():
    own, other = face()[None, None], face(6.0)[None, None]  # the other stands 6 px lower, to the right
    plain = torch.full((1, 1, 3, 128, 128), 0.3)
    out = mixed_face(plain, own, with_dot(51.0, 71.0, 0.5), other, torch.tensor([0.5]))
    top = out[0, 0, 0].flatten().argmax().item()
    assert (top % 128 - 45) ** 2 + (top // 128 - 65) ** 2 <= 2
    assert abs(out.max().item() - (0.3 + 0.5 * 0.4)) < 0.03  # the other's paler skin is brought to 0.3 first
    assert (out[..., :10, :] - 0.3).abs().max() < 1e-3 and (out[..., 120:, :] - 0.3).abs().max() < 1e-3


def test_the_likest_mouth_is_taken_and_what_is_missing_left_alone():
    pictures = torch.rand(1, 2, 3, 128, 128)
    own = torch.stack([face(), torch.full((68, 2), torch.nan)])[None]
    wide = face()
    wide[55:60, 1] += 12
    out = mixed_face(
        pictures,
        own,
        torch.stack([1 - pictures[0, 0], pictures[0, 0]])[None],
        torch.stack([wide, face()])[None],
        torch.ones(1),
    )
    torch.testing.assert_close(out[0, 0], pictures[0, 0], atol=5e-3, rtol=0)  # of himself: the same
    assert torch.equal(out[0, 1], pictures[0, 1])


def test_a_share_of_the_samples_is_mixed():
    frames, points = torch.rand(6, 2, 3, 128, 128), face().repeat(6, 2, 1, 1)
    assert torch.equal(mingle(frames, points, 0.0, torch.Generator()), frames)
    out = mingle(frames, points, 0.5, torch.Generator().manual_seed(0))
    changed = (out - frames).abs().amax((2, 3, 4)) > 0.01
    assert torch.equal(changed[:, 0], changed[:, 1]) and 0 < changed[:, 0].sum() < 6
    assert torch.equal(out, mingle(frames, points, 0.5, torch.Generator().manual_seed(0)))
