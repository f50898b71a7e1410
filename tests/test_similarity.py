"""The similarity against a known one and against SciPy's Procrustes."""

import math

import pytest
import torch
from scipy.spatial import procrustes

from talkhead.face.similarity import fit_similarity


def turned(points: torch.Tensor, degrees: float, scale: float, shift: tuple[float, float]) -> torch.Tensor:
    """Rotate (from x to y), scale and shift, in complex numbers."""
    factor = scale * complex(math.cos(math.radians(degrees)), math.sin(math.radians(degrees)))
    moved = torch.view_as_complex(points.double()) * factor + complex(*shift)
    return torch.view_as_real(moved).to(points.dtype)


def test_a_known_similarity_is_found() -> None:
    source = 20 * torch.randn(3, 9, 2) + 64
    target = turned(source, 30, 1.5, (4, -7))
    fit = fit_similarity(source, target)
    torch.testing.assert_close(fit(source), target, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(fit.turn(source[:, :1] - source[:, 1:]), target[:, :1] - target[:, 1:])
    assert fit.factor.abs().tolist() == pytest.approx([1.5] * 3, rel=1e-5)
    assert fit.factor.angle().rad2deg().tolist() == pytest.approx([30] * 3, abs=1e-3)


def test_the_error_left_is_scipys() -> None:
    target = torch.randn(68, 2, dtype=torch.float64)
    source = turned(target, -20, 0.7, (3, 5)) + 0.1 * torch.randn(68, 2, dtype=torch.float64)
    error = (fit_similarity(source, target)(source) - target).square().sum()
    scale = (target - target.mean(0)).square().sum()
    assert (error / scale).item() == pytest.approx(procrustes(target.numpy(), source.numpy())[2], rel=1e-9)


def test_it_never_mirrors() -> None:
    source = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 1.0], [4.0, 2.0]])
    assert (fit_similarity(source, source * torch.tensor([-1.0, 1.0])).matrix.det() >= 0).all()


def test_one_face_is_fitted_to_many() -> None:
    source = torch.randn(5, 2)
    target = torch.stack([turned(source, angle, 1, (0, 0)) for angle in (0, 10, 20)])
    torch.testing.assert_close(fit_similarity(source, target)(source), target)


def test_autocast_does_not_make_it_coarse() -> None:
    source = 20 * torch.randn(9, 2) + 64
    target = turned(source, 30, 1.5, (4, -7))
    with torch.autocast("cpu", torch.bfloat16):
        moved = fit_similarity(source, target)(source)
    assert moved.dtype == torch.float32
    torch.testing.assert_close(moved, target, rtol=1e-5, atol=1e-3)
    assert fit_similarity(source.bfloat16(), target.bfloat16()).matrix.dtype == torch.float32


def test_points_that_are_all_one_have_no_turn() -> None:
    assert torch.equal(fit_similarity(torch.ones(4, 2), torch.randn(4, 2)).matrix, torch.zeros(2, 2))
