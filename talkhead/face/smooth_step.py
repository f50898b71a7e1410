"""How things fade: from one to another without an edge."""

from torch import Tensor


def smooth_step(share: Tensor) -> Tensor:
    """Return 3 s^2 - 2 s^3 of a share s, which is kept in [0, 1]: level at both ends."""
    share = share.clamp(0, 1)
    return share * share * (3 - 2 * share)
