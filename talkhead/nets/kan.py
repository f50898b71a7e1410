"""A Kolmogorov-Arnold layer: a learnable univariate function on every edge.

Liu et al. 2024 (arXiv:2404.19756), Eqs. 2.10-2.11. With inputs x_i and outputs y_o,

    y_o = sum_i phi_oi(x_i),        phi(x) = w_b silu(x) + w_s sum_j c_j B_j(x),

where B_j are the B-splines of order k on a uniform grid of G intervals over [a, b], extended by k knots at each side:
t_j = a + (j - k) (b - a) / G for j = 0 .. G + 2k, hence G + k splines. Inside [a, b] they sum to one; beyond it they
fade to zero within k intervals, so that far outside only the silu term is left.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def extended_grid(low: float, high: float, intervals: int, order: int) -> Tensor:
    """Return the (G + 2k + 1,) float32 knots t_j of the module's docstring, ascending."""
    step = (high - low) / intervals
    return low + step * torch.arange(-order, intervals + order + 1, dtype=torch.float32)


def b_spline_basis(x: Tensor, knots: Tensor, order: int) -> Tensor:
    """Evaluate all B-splines of one order at once (Cox-de Boor recursion), differentiably in x.

    Args:
        x: (...) floating point, any values.
        knots: (M,) ascending, distinct.
        order: polynomial degree k >= 0.

    Returns:
        (..., M - 1 - k) values B_j(x) in [0, 1].

    Example:
        >>> knots = extended_grid(-1.0, 1.0, intervals=4, order=3)
        >>> round(b_spline_basis(torch.tensor([0.3]), knots, order=3).sum().item(), 5)  # they share out one
        1.0
    """
    return _Basis.apply(x, knots.to(x), order)


class _Basis(torch.autograd.Function):
    """The recursion and, in place of a tape of it, the closed form of its derivative (twice as fast)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, t: Tensor, order: int) -> Tensor:
        """Raise the degree one by one: B_j = (x - t_j) / (t_j+k - t_j) B_j + (t_j+k+1 - x) / (...) B_j+1."""
        x = x.unsqueeze(-1)
        basis = lower = ((x >= t[:-1]) & (x < t[1:])).to(x)
        for k in range(1, order + 1):
            lower = basis
            # Both ramps as slope * x + offset: the divisions are by knots alone.
            up, down = 1 / (t[k:-1] - t[: -k - 1]), 1 / (t[k + 1 :] - t[1:-k])
            rising = torch.addcmul(-t[: -k - 1] * up, x, up)
            falling = torch.addcmul(t[k + 1 :] * down, x, -down)
            basis = torch.addcmul(rising.mul_(lower[..., :-1]), falling, lower[..., 1:])
        ctx.save_for_backward(lower, t)
        ctx.order = order
        return basis

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Apply dB_j / dx = k / (t_j+k - t_j) B_j - k / (t_j+k+1 - t_j+1) B_j+1, the right side of degree k - 1."""
        (lower, t), k = ctx.saved_tensors, ctx.order
        if k == 0:
            return torch.zeros_like(grad[..., 0]), None, None
        slope = k / (t[k:] - t[:-k])
        spread = torch.nn.functional.pad(grad, (0, 1)) - torch.nn.functional.pad(grad, (1, 0))
        return torch.einsum("...j,...j,j->...", spread, lower, slope), None, None


class KANLayer(nn.Module):
    """One Kolmogorov-Arnold layer (see the module's docstring for the mathematics and the symbols).

    Args:
        in_features: number of inputs.
        out_features: number of outputs.
        intervals: G, grid intervals over ``[low, high]``.
        order: k, degree of the splines; 3 is cubic.
        low: a, where the grid begins.
        high: b, where it ends; inputs are best normalised so that most fall inside.

    Raises:
        ValueError: if the grid is empty or the order negative.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        intervals: int = 5,
        order: int = 3,
        low: float = -2.0,
        high: float = 2.0,
    ) -> None:
        super().__init__()
        if intervals < 1 or order < 0 or high <= low:
            raise ValueError(
                f"KANLayer needs intervals >= 1, order >= 0 and low < high; got {intervals}, {order}, {low}, {high}"
            )
        self.order = order
        self.knots: Tensor
        self.register_buffer("knots", extended_grid(low, high, intervals, order))
        self.base_weight = nn.Parameter(torch.empty(out_features, in_features))
        self.spline_weight = nn.Parameter(torch.full((out_features, in_features), in_features**-0.5))
        # Small random splines (Sec. 2.2 of the paper): the layer begins close to a plain silu network.
        self.coefficients = nn.Parameter(0.1 * torch.randn(out_features, in_features, intervals + order))
        nn.init.xavier_uniform_(self.base_weight)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer.

        Args:
            x: (..., in_features), unit-free.

        Returns:
            (..., out_features).
        """
        splines = b_spline_basis(x, self.knots, self.order)
        weight = self.spline_weight.unsqueeze(-1) * self.coefficients
        curved = nn.functional.linear(splines.flatten(-2), weight.flatten(-2))
        return nn.functional.linear(nn.functional.silu(x), self.base_weight) + curved
