"""Silence, the closed mouth, and the small life of an idle face."""

import math

import pytest
import torch

from talkhead.face.idle import idle_motion
from talkhead.face.mouth_gate import close_mouth, relax_mouth, speech_gate
from talkhead.metrics import mouth_opening


def face(opening: float = 0.0) -> torch.Tensor:
    """A drawn face in a 128-px frame, the lower inner lip ``opening`` px under the upper."""
    points = torch.zeros(68, 2)
    angle = torch.linspace(0, math.pi, 17)
    points[:17] = torch.stack([64 - 40 * angle.cos(), 60 + 45 * angle.sin()], -1)
    points[17:27] = torch.stack([torch.linspace(35, 93, 10), torch.full((10,), 40.0)], -1)
    points[27:36] = torch.stack([torch.linspace(58, 70, 9), torch.linspace(50, 72, 9)], -1)
    ring = torch.arange(6) * math.pi / 3
    eye = torch.stack([-6 * ring.cos(), -3 * ring.sin()], -1)
    points[36:42], points[42:48] = eye + torch.tensor([47.0, 52.0]), eye + torch.tensor([81.0, 52.0])
    outer = torch.tensor([[-14, 0], [-9, -3], [-4, -5], [0, -4], [4, -5], [9, -3], [14, 0], [9, 4], [4, 6], [0, 6]])
    points[48:58] = outer + torch.tensor([64.0, 86.0])
    points[58:60] = torch.tensor([[60.0, 92.0], [55.0, 90.0]])
    inner = torch.tensor([[-11, 0], [-4, 0], [0, 0], [4, 0], [11, 0], [4, 0], [0, 0], [-4, 0]])
    points[60:68] = inner + torch.tensor([64.0, 86.0])
    points[65:68, 1] += opening
    points[56:59, 1] += opening
    points[6:11, 1] += opening
    return points


def turned(points: torch.Tensor, degrees: float, scale: float = 1.0, shift: tuple[float, float] = (0, 0)):
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return scale * points @ torch.tensor([[cos, sin], [-sin, cos]]) + torch.tensor(shift)


@pytest.mark.parametrize("degrees", [0.0, 20.0, -35.0])
def test_an_open_mouth_closes_whatever_the_tilt(degrees: float) -> None:
    opened = turned(face(opening=12.0), degrees)
    closed = close_mouth(opened)
    assert mouth_opening(opened).item() == pytest.approx(12.0, abs=1e-3)
    size = (opened - opened.mean(0)).square().sum(-1).mean().sqrt().item()
    assert mouth_opening(closed).item() == pytest.approx(0.035 * size, rel=1e-3)
    assert mouth_opening(close_mouth(opened, closed=0.0)).item() == pytest.approx(0, abs=1e-4)
    torch.testing.assert_close(closed[17:48], opened[17:48])


def test_a_closed_mouth_stays() -> None:
    torch.testing.assert_close(close_mouth(face()), face())


def test_gate_opens_in_speech_and_closes_in_silence_smoothly() -> None:
    decibels = torch.full((150,), -80.0)
    decibels[50:100] = -5.0
    gate = speech_gate(decibels, fps=25)
    assert (gate[:40] == 0).all() and (gate[110:] == 0).all()
    assert (gate[48:102] > 0.5).all() and (gate[55:95] == 1).all()
    assert (gate[1:] - gate[:-1]).abs().max() < 0.5


def test_gate_stands_above_the_noise_floor() -> None:
    decibels = torch.full((200,), -25.0) + torch.rand(200)
    decibels[80:120] = 0.0
    gate = speech_gate(decibels, fps=25)
    assert gate[:60].max() < 0.2 and gate[140:].max() < 0.2
    assert gate[90:110].min() == 1


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_gate_of_a_few_frames(frames: int) -> None:
    assert speech_gate(torch.zeros(frames), fps=25).shape == (frames,)


def test_relaxed_mouth_is_as_closed_as_at_rest_on_the_moving_head() -> None:
    """The lips of a face that turns and grows are as far apart as those at rest, turned and grown alike."""
    rest = face(opening=1.0)
    frames = torch.stack([turned(face(opening=8.0), 3.0 * i, 1 + 0.1 * i, (i, -i)) for i in range(5)])
    relaxed = relax_mouth(frames, rest, torch.zeros(5))
    expected = torch.tensor([1 + 0.1 * i for i in range(5)])
    torch.testing.assert_close(mouth_opening(relaxed), expected, rtol=0, atol=1e-3)  # float32 at 100 px
    torch.testing.assert_close(relaxed[:, 17:48], frames[:, 17:48])
    # The jaw closes it: the upper lip comes 0.23 of the way, the corners rise by 0.27 of it.
    turn = torch.tensor([[math.radians(3.0 * i)] for i in range(5)])
    up = torch.cat([turn.sin(), -turn.cos()], -1) * 7 * (1 + 0.1 * torch.arange(5.0))[:, None]
    for points, share in (([61, 62, 63], -0.23), ([48, 54, 60, 64], 0.27), ([65, 66, 67], 0.77)):
        moved = (relaxed - frames)[:, points]
        torch.testing.assert_close(moved, share * up[:, None].expand_as(moved), rtol=0, atol=1e-3)
    torch.testing.assert_close(relax_mouth(frames, rest, torch.ones(5)), frames)
    halfway = relax_mouth(frames, rest, torch.full((5,), 0.5))
    torch.testing.assert_close(halfway, (frames + relaxed) / 2)


def test_a_mouth_at_rest_stays_as_it_is() -> None:
    rest = face(opening=0.5)
    frames = torch.stack([turned(rest, 4.0 * i) for i in range(3)])
    torch.testing.assert_close(relax_mouth(frames, rest, torch.zeros(3)), frames, rtol=0, atol=1e-4)


def test_idle_face_lives_and_its_mouth_stays_closed() -> None:
    still = face().expand(500, -1, -1)
    moved = idle_motion(still, fps=25, seed=3)
    eyes = (moved[:, [37, 38, 43, 44]] - moved[:, [41, 40, 47, 46]]).norm(dim=-1).mean(-1)
    blinks = ((eyes[1:] < 0.5 * eyes[0]) & (eyes[:-1] >= 0.5 * eyes[0])).sum()
    assert 4 <= blinks <= 5  # one in each of five slots of four seconds
    assert mouth_opening(moved).max() < 1e-3
    drift = (moved[:, 30] - still[:, 30]).norm(dim=-1)
    assert 0.3 < drift.max() < 3.0  # about one percent of a face of 35 px, each way
    assert (moved[1:, 30] - moved[:-1, 30]).norm(dim=-1).max() < 0.3


def test_idle_motion_depends_on_seed_and_absolute_time_alone() -> None:
    still = face().expand(100, -1, -1)
    whole = idle_motion(still, fps=30, seed=1)
    torch.testing.assert_close(idle_motion(still[40:], fps=30, seed=1, first_frame=40), whole[40:])
    assert not torch.equal(idle_motion(still, fps=30, seed=2), whole)
    torch.testing.assert_close(idle_motion(still, fps=30, head=0, blink=0), still)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(idle_motion(still, fps=30, seed=1), whole)
