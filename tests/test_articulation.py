"""How far a stranger's mouth moves: the swing about its mean, the head's share, and lips that meet."""

import math

import pytest
import torch
from test_mouth_gate import face, turned

from talkhead.face.articulation import articulate, shut_narrow, widen_narrow
from talkhead.face.frame import face_size
from talkhead.face.head_state import move_head, read_head
from talkhead.metrics import mouth_opening


def test_the_swing_widens_about_a_mean_that_stays() -> None:
    rest = face()
    spoken = torch.stack([face(8 + 4 * math.sin(k)) for k in range(63)])
    before, after = mouth_opening(spoken), mouth_opening(articulate(spoken, rest, 1.5))
    assert after.mean() == pytest.approx(before.mean().item(), abs=0.01)
    assert torch.allclose(after - after.mean(), 1.5 * (before - before.mean()), atol=0.01)


def test_half_the_habit_is_half_the_head() -> None:
    rest, state = face(), torch.randn(20, 8, generator=torch.Generator().manual_seed(0)) * 0.02
    moved = articulate(move_head(rest.expand(20, 68, 2), rest, state), rest, habit=0.5)
    assert torch.allclose(read_head(moved, rest), state / 2, atol=1e-4)


@pytest.mark.parametrize("degrees", [0.0, 25.0])
def test_narrow_openings_close_twice_as_fast_and_never_cross(degrees: float) -> None:
    rest, size = face(), face_size(face()).item()
    # Under 0.1 an opening of o becomes 2 o - 0.1, at least 0; from there on it stays.
    openings, wanted = [0.02, 0.05, 0.07, 0.09, 0.1, 0.3], [0.0, 0.0, 0.04, 0.08, 0.1, 0.3]
    spoken = torch.stack([turned(face(size * opening), degrees, 1.7) for opening in openings])
    shut = mouth_opening(articulate(spoken, turned(rest, degrees, 1.7), closing=0.1)) / (1.7 * size)
    assert shut.tolist() == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("degrees", [0.0, -20.0])
def test_restraint_takes_a_share_of_loudness_out_of_the_opening(degrees: float) -> None:
    rest, size = turned(face(), degrees, 1.7), 1.7 * face_size(face()).item()
    loudness = 20 * torch.tensor([1e-6, 0.2, 1.0, 1.2, 0.6]).log10()  # amplitudes of mean 0.6
    spoken = torch.stack([turned(face(10.0), degrees, 1.7)] * 5)
    after = mouth_opening(articulate(spoken, rest, restraint=0.05, loudness=loudness)) - mouth_opening(spoken)
    wanted = [0.05 * size * away for away in (0.6, 0.4, -0.4, -0.6, 0.0)]
    assert after.tolist() == pytest.approx(wanted, abs=1e-3)


def test_nothing_asked_for_changes_nothing() -> None:
    spoken = torch.stack([face(k) for k in range(5)])
    assert articulate(spoken, face()) is spoken


def test_widening_undoes_the_closing() -> None:
    rest = face()
    spoken = torch.stack([face(k) for k in range(12)])
    seen = widen_narrow(spoken, rest, 0.1)
    gap, limit = mouth_opening(spoken), 0.1 * face_size(rest)
    assert torch.allclose(mouth_opening(seen), torch.where(gap < limit, (gap + limit) / 2, gap), atol=1e-4)
    assert torch.allclose(shut_narrow(seen, rest, 0.1), spoken, atol=1e-4)
