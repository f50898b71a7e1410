"""The thin-plate spline against SciPy's, and what a warp must not do."""

import pytest
import torch
from scipy.interpolate import RBFInterpolator

from talkhead.face.warp import _border_points, compose, sample, spline_displacement, thin_plate_spline_warp


def points(batch: int, count: int, size: int) -> torch.Tensor:
    return size * (0.2 + 0.6 * torch.rand(batch, count, 2))


def test_displacement_is_scipys_thin_plate_spline():
    size = 64
    # Well apart, as between points closer than the 4-px lattice of evaluation the two differ by design.
    target = 14.0 + 12 * torch.cartesian_prod(torch.arange(4), torch.arange(4))[None] + torch.rand(1, 16, 2)
    source = target + 2 * torch.randn(1, 16, 2)
    ours = spline_displacement(source, target, (size, size), stiffness=0.0)[0]
    border = _border_points(size, size, torch.device("cpu"))
    centres = torch.cat([target[0], border]).double().numpy()
    values = torch.cat([(source - target)[0], torch.zeros_like(border)]).double().numpy()
    reference = RBFInterpolator(centres, values, kernel="thin_plate_spline", degree=1)
    ys, xs = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    truth = torch.from_numpy(reference(torch.stack([xs, ys], -1).reshape(-1, 2).double().numpy()))
    error = (ours.reshape(-1, 2) - truth).abs()
    assert truth.abs().max() > 2
    # The field is evaluated every 4 px and interpolated linearly between.
    assert error.mean() < 0.1
    assert error.max() < 1.0


def test_landmarks_arrive_where_they_should():
    """A bright dot at each source point lies at the target point after the warp."""
    size = 64
    ys, xs = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    source = torch.tensor([[[20.0, 20.0], [44.0, 22.0], [32.0, 44.0]]])
    target = source + torch.tensor([[3.0, -2.0], [-2.0, 3.0], [0.0, 4.0]])
    for index in range(3):
        x, y = source[0, index]
        dot = torch.exp(-((xs - x) ** 2 + (ys - y) ** 2) / 8.0)[None, None]
        warped = thin_plate_spline_warp(dot, source, target[:, None], stiffness=0.0)[0, 0, 0]
        centre = torch.stack([(warped * xs).sum(), (warped * ys).sum()]) / warped.sum()
        torch.testing.assert_close(centre, target[0, index], atol=0.5, rtol=0)


def test_the_border_stays_and_missing_faces_are_not_warped():
    picture = torch.rand(1, 3, 32, 32)
    source = points(1, 68, 32)
    target = source[:, None] + 2 * torch.randn(1, 2, 68, 2)
    target[:, 1, 5] = float("nan")
    warped = thin_plate_spline_warp(picture, source, target)
    torch.testing.assert_close(warped[:, 1], picture, atol=1e-4, rtol=0)
    assert warped.isfinite().all()


def test_it_is_differentiable_in_the_landmarks():
    source = points(1, 5, 16).requires_grad_()
    target = points(1, 5, 16)[:, None].requires_grad_()
    thin_plate_spline_warp(torch.rand(1, 3, 16, 16), source, target).sum().backward()
    assert source.grad is not None and source.grad.abs().sum() > 0
    assert target.grad is not None and target.grad.abs().sum() > 0


def test_sampling_by_the_composition_is_sampling_twice():
    """On a picture that is linear in x and y bilinear interpolation is exact, so once and twice must agree."""
    ys, xs = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")
    picture = torch.stack([xs, ys, xs - 2 * ys])[None]
    field = torch.full((1, 1, 24, 24, 2), 1.25) + 0.05 * xs[..., None]
    flow = torch.stack([0.75 * torch.ones(24, 24), -0.5 + 0.02 * ys])[None, :, None]
    once = sample(picture, compose(field, flow), "bilinear")
    twice = sample(sample(picture, field, "bilinear")[:, :, 0], flow.permute(0, 2, 3, 4, 1), "bilinear")
    inner = (..., slice(4, -4), slice(4, -4))
    torch.testing.assert_close(once[inner], twice[inner], atol=1e-3, rtol=0)


@pytest.mark.parametrize("phase", [0.25, 0.5, 0.8])
def test_sampling_keeps_a_fine_pattern_between_its_pixels(phase):
    """Three pixels a wave: linear and cubic interpolation lose a good part of it."""
    wave = torch.sin(torch.arange(64) * 2.0).expand(1, 1, 64, 64).contiguous()
    field = torch.zeros(1, 1, 64, 64, 2)
    field[..., 0] = phase
    truth = torch.sin((torch.arange(64) + phase) * 2.0)[8:-8]
    error = {m: (sample(wave, field, m)[0, 0, 0, 8:-8, 8:-8] - truth).abs().max() for m in ("sharp", "bilinear")}
    places = (torch.arange(64) + phase + 0.5) / 32 - 1
    grid = torch.stack([places.expand(64, 64), ((torch.arange(64) + 0.5) / 32 - 1)[:, None].expand(64, 64)], -1)[None]
    cubic = torch.nn.functional.grid_sample(wave, grid, "bicubic", "border", align_corners=False)
    cubic_error = (cubic[0, 0, 8:-8, 8:-8] - truth).abs().max()
    assert error["sharp"] < 0.4 * cubic_error < 0.4 * error["bilinear"]


def test_sampling_on_pixels_gives_the_pixels_and_edges_are_repeated():
    picture = torch.rand(1, 2, 9, 7)
    field = torch.zeros(1, 1, 9, 7, 2)
    field[..., 0], field[..., 1] = 2.0, -1.0
    found = sample(picture, field)[0, :, 0]
    rows, columns = (torch.arange(9) - 1).clamp(0), (torch.arange(7) + 2).clamp(max=6)
    torch.testing.assert_close(found, picture[0][:, rows][:, :, columns], atol=2e-6, rtol=0)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="thin_plate_spline_warp expects"):
        thin_plate_spline_warp(torch.rand(1, 3, 16, 16), torch.rand(1, 5, 2), torch.rand(1, 5, 2))
