"""The B-spline KAN layer against its closed forms, scipy and finite differences."""

import numpy as np
import pytest
import torch

from talkhead.nets.kan import KANLayer, b_spline_basis, extended_grid


@pytest.mark.parametrize("order", [0, 1, 2, 3, 5])
def test_splines_share_out_one_inside_the_grid(order: int) -> None:
    knots = extended_grid(-1.5, 2.0, intervals=7, order=order).double()
    x = torch.linspace(-1.5, 2.0 - 1e-6, 501, dtype=torch.float64)
    basis = b_spline_basis(x, knots, order)
    assert basis.shape == (501, 7 + order)
    assert (basis >= -1e-12).all()
    torch.testing.assert_close(basis.sum(-1), torch.ones_like(x), rtol=0, atol=1e-12)  # rounding of float64


def test_the_right_end_belongs_to_the_grid() -> None:
    basis = b_spline_basis(torch.tensor([2.0]).double(), extended_grid(-2.0, 2.0, 4, 3).double(), 3)
    assert basis.sum().item() == pytest.approx(1.0, abs=1e-12)


def test_cubic_basis_at_a_knot_is_one_sixth_four_sixths_one_sixth() -> None:
    basis = b_spline_basis(torch.tensor([0.0]).double(), extended_grid(-2.0, 2.0, 4, 3).double(), 3)[0]
    torch.testing.assert_close(basis[2:5], torch.tensor([1.0, 4.0, 1.0]).double() / 6, rtol=0, atol=1e-12)
    assert basis.count_nonzero() == 3


def test_agrees_with_scipy() -> None:
    interpolate = pytest.importorskip("scipy.interpolate")
    knots = extended_grid(-1.0, 1.0, intervals=6, order=3).double()
    x = torch.rand(200, dtype=torch.float64) * 2 - 1
    theirs = interpolate.BSpline.design_matrix(x.numpy(), knots.numpy(), 3).toarray()
    np.testing.assert_allclose(b_spline_basis(x, knots, 3).numpy(), theirs, atol=1e-12)


def test_represents_a_cubic_exactly() -> None:
    interpolate = pytest.importorskip("scipy.interpolate")
    layer = KANLayer(1, 1, intervals=4, order=3, low=-1.0, high=1.0).double()
    knots = layer.knots.numpy()
    x = np.linspace(-1, 1, 101)
    cubic = 0.3 - x + 2 * x**2 - 1.5 * x**3
    design = interpolate.BSpline.design_matrix(np.clip(x, -1, 1 - 1e-9), knots, 3).toarray()
    coefficients = np.linalg.lstsq(design, cubic, rcond=None)[0]
    with torch.no_grad():
        layer.base_weight.zero_()
        layer.spline_weight.fill_(1.0)
        layer.coefficients.copy_(torch.from_numpy(coefficients)[None, None])
        y = layer(torch.from_numpy(x)[:, None])[:, 0]
    np.testing.assert_allclose(y.numpy(), cubic, atol=1e-6)  # 1e-9 off the end times the slope, and least squares


def test_layer_is_the_sum_of_its_edges() -> None:
    layer = KANLayer(3, 2).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    basis = b_spline_basis(x, layer.knots, 3)
    expected = torch.zeros(5, 2, dtype=torch.float64)
    for o in range(2):
        for i in range(3):
            spline = (basis[:, i] * layer.coefficients[o, i]).sum(-1)
            silu = x[:, i] / (1 + torch.exp(-x[:, i]))
            expected[:, o] += layer.base_weight[o, i] * silu + layer.spline_weight[o, i] * spline
    torch.testing.assert_close(layer(x), expected)


def test_gradients() -> None:
    layer = KANLayer(2, 3, intervals=4).double()
    x = (torch.rand(4, 2, dtype=torch.float64) * 3 - 1.5).requires_grad_()
    assert torch.autograd.gradcheck(layer, (x,))
    assert torch.autograd.gradcheck(
        lambda c: torch.func.functional_call(layer, {"coefficients": c}, (x.detach(),)),
        (layer.coefficients.detach().clone().requires_grad_(),),
    )


def test_far_outside_the_grid_only_silu_is_left() -> None:
    layer = KANLayer(2, 2)
    x = torch.tensor([[50.0, -50.0]])
    torch.testing.assert_close(layer(x), torch.nn.functional.silu(x) @ layer.base_weight.T)


def test_an_empty_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="low < high"):
        KANLayer(2, 2, low=1.0, high=1.0)
