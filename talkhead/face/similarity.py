"""The rotation, scale and shift that best lay one set of points on another: Procrustes in the plane."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from talkhead.face.frame import turn


class Similarity(NamedTuple):
    """A rotation with scale and shift, never a reflection: ``q = (p - source_mean) @ matrix + target_mean``.

    Attributes:
        matrix: (..., 2, 2), for row vectors: a rotation times the scale.
        source_mean: (..., 1, 2) px.
        target_mean: (..., 1, 2) px.
    """

    matrix: Tensor
    source_mean: Tensor
    target_mean: Tensor

    def __call__(self, points: Tensor) -> Tensor:
        """Move (..., K, 2) points."""
        return self.turn(points - self.source_mean) + self.target_mean

    def turn(self, vectors: Tensor) -> Tensor:
        """Turn and scale (..., K, 2) displacements."""
        return turn(_exact(vectors), self.matrix)

    @property
    def factor(self) -> Tensor:
        """(...,) complex: what x + iy is multiplied by; its modulus is the scale, its argument the rotation."""
        return torch.complex(self.matrix[..., 0, 0], self.matrix[..., 0, 1])


def fit_similarity(source: Tensor, target: Tensor) -> Similarity:
    """Fit the similarity that takes ``source`` to ``target`` with the least squared error, in closed form.

    In complex numbers it is q = a p + b, and a = <p, q> / <p, p> with the means taken off. Computed in float32 at
    least, under autocast too (there is no matrix product in it): landmarks need more digits than bfloat16 has.

    Args:
        source: (..., K, 2) px.
        target: (..., K, 2) px; the leading axes broadcast.

    Returns:
        The similarity; where all of a source's points are one, its matrix is 0.

    Example:
        >>> points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> quarter = fit_similarity(points, points @ torch.tensor([[0.0, 2.0], [-2.0, 0.0]]) + 5)
        >>> f"{quarter.factor.abs():.3f} {quarter.factor.angle().rad2deg():.3f}"  # twice as large, turned from x to y
        '2.000 90.000'
    """
    source, target = _exact(source), _exact(target)
    source_mean, target_mean = source.mean(-2, keepdim=True), target.mean(-2, keepdim=True)
    s, t = source - source_mean, target - target_mean
    power = s.square().sum((-2, -1)).clamp_min(1e-12)
    a = (s * t).sum((-2, -1)) / power
    b = (s[..., 0] * t[..., 1] - s[..., 1] * t[..., 0]).sum(-1) / power
    matrix = torch.stack([torch.stack([a, b], -1), torch.stack([-b, a], -1)], -2)
    return Similarity(matrix, source_mean, target_mean)


def _exact(points: Tensor) -> Tensor:
    """Return the points in float32, float64 as they are."""
    return points.to(torch.promote_types(points.dtype, torch.float32))
