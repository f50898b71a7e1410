"""Augmentation moves pictures and landmarks together."""

import torch

from talkhead.augmentation.pictures import jitter, mirror, recolour, reshape
from talkhead.face.points import MIRROR


def dots(landmarks: torch.Tensor, size: int) -> torch.Tensor:
    """One frame with a bright dot at the first landmark."""
    ys, xs = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    x, y = landmarks[:, :, 0, 0, None, None], landmarks[:, :, 0, 1, None, None]
    return torch.exp(-((xs - x) ** 2 + (ys - y) ** 2) / 8.0)[:, :, None].repeat(1, 1, 3, 1, 1)


def centre(frame: torch.Tensor) -> torch.Tensor:
    ys, xs = torch.meshgrid(torch.arange(frame.shape[-2]), torch.arange(frame.shape[-1]), indexing="ij")
    return torch.stack([(frame * xs).sum(), (frame * ys).sum()]) / frame.sum()


def test_jitter_moves_the_picture_as_the_landmarks():
    landmarks = torch.full((6, 1, 68, 2), 24.0) + 8 * torch.rand(6, 1, 68, 2)
    frames, moved = jitter(dots(landmarks, 64), landmarks, 1.0, torch.Generator().manual_seed(0))
    assert (moved - landmarks).abs().max() > 2
    for index in range(6):
        torch.testing.assert_close(centre(frames[index, 0, 0]), moved[index, 0, 0], atol=0.3, rtol=0)


def test_another_shape_moves_the_picture_as_the_landmarks():
    landmarks = torch.full((6, 1, 68, 2), 24.0) + 16 * torch.rand(6, 1, 68, 2)
    frames, moved = reshape(dots(landmarks, 64), landmarks, 1.0, torch.Generator().manual_seed(0))
    assert (moved - landmarks).abs().max() > 2
    for index in range(6):
        torch.testing.assert_close(centre(frames[index, 0, 0]), moved[index, 0, 0], atol=0.5, rtol=0)
    spread = (moved[:, 0, :, None] - moved[:, 0, None]).norm(dim=-1)
    assert (spread - (landmarks[:, 0, :, None] - landmarks[:, 0, None]).norm(dim=-1)).abs().max() > 1, "only shifted"
    some = torch.rand(4, 2, 3, 16, 16), 15 * torch.rand(4, 2, 68, 2)
    kept = reshape(*some, 0.0, torch.Generator().manual_seed(0))
    assert torch.equal(kept[0], some[0]) and torch.equal(kept[1], some[1])


def test_a_sample_that_is_not_chosen_stays_as_it_is_and_costs_nothing_to_the_draws():
    frames, landmarks = torch.rand(6, 2, 3, 16, 16), 15 * torch.rand(6, 2, 68, 2)
    for change in (jitter, reshape):
        every = change(frames, landmarks, 1.0, torch.Generator().manual_seed(1))
        some = change(frames, landmarks, 0.5, torch.Generator().manual_seed(1))
        kept = [torch.equal(some[0][index], frames[index]) for index in range(6)]
        assert 0 < sum(kept) < 6
        for index in range(6):
            like = (frames, landmarks) if kept[index] else every
            torch.testing.assert_close(some[0][index], like[0][index], atol=1e-6, rtol=0)
            torch.testing.assert_close(some[1][index], like[1][index], atol=1e-5, rtol=0)
        assert change(frames, landmarks, 0.0, torch.Generator().manual_seed(1))[0] is frames


def test_mirror_is_its_own_inverse_and_swaps_the_corners():
    assert MIRROR[36] == 45 and MIRROR[48] == 54 and MIRROR[8] == 8 and MIRROR[0] == 16
    frames, landmarks = torch.rand(2, 3, 3, 16, 16), 15 * torch.rand(2, 3, 68, 2)
    once = mirror(frames, landmarks, 1.0, torch.Generator())
    torch.testing.assert_close(once[1][..., 36, 0], 15 - landmarks[..., 45, 0])
    twice = mirror(*once, 1.0, torch.Generator())
    torch.testing.assert_close(twice[0], frames)
    torch.testing.assert_close(twice[1], landmarks)


def test_recolour_keeps_what_is_not_chosen_and_treats_all_frames_alike():
    frames = torch.rand(1, 1, 3, 8, 8).repeat(4, 5, 1, 1, 1)
    assert torch.equal(recolour(frames, 0.0, torch.Generator()), frames)
    changed = recolour(frames, 1.0, torch.Generator().manual_seed(0))
    assert (changed[:, 0] - changed[:, 4]).abs().max() == 0
    assert (changed - frames).abs().amax((1, 2, 3, 4)).min() > 0.05
    assert changed.min() >= 0 and changed.max() <= 1
