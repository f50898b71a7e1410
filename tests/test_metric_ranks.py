"""Every metric of a living face, measured by two ranks with unequal shares of the clips, is that of one."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torchmetrics import Metric

from talkhead import metrics

TRACKS = torch.rand(5, 40, 68, 2, generator=torch.Generator().manual_seed(0)) * 4
TRACKS = TRACKS + torch.rand(68, 2, generator=torch.Generator().manual_seed(1)) * 100
TRACKS[:, :, 36:48] += torch.tensor([0.0, 40.0])
TRACKS[:, :, 42:48] += torch.tensor([80.0, 0.0])
TRACKS[:, :, 30] += TRACKS[0, 0, 36:48].mean(0) + torch.tensor([0.0, 40.0]) - TRACKS[0, 0, 30]
SOUND = torch.randn(5, 25600, generator=torch.Generator().manual_seed(2)) * 0.1
SOUND[:, 8000:16000] = 0
PICTURES = torch.randint(256, (2, 5, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(4))
WHOSE = torch.randn(5, 40, 128, generator=torch.Generator().manual_seed(3))

CASES: dict[str, tuple[Callable[..., Metric], tuple[Tensor, ...]]] = {
    "lip dynamics": (lambda **k: metrics.LipDynamics(128, **k), (TRACKS,)),
    "brow dynamics": (metrics.BrowDynamics, (TRACKS,)),
    "roll": (metrics.HeadMotion, (TRACKS,)),
    "yaw": (lambda **k: metrics.HeadMotion("yaw", **k), (TRACKS,)),
    "pitch": (lambda **k: metrics.HeadMotion("pitch", **k), (TRACKS,)),
    "shift": (lambda **k: metrics.HeadMotion("shift", **k), (TRACKS,)),
    "silent lips": (metrics.SilentLips, (TRACKS, SOUND)),
    "identity": (metrics.IdentitySimilarity, (WHOSE, WHOSE[:, 0])),
    "perceptual": (lambda **k: metrics.PerceptualDistance(torch.nn.AvgPool2d(2), **k), tuple(PICTURES)),
    "drift": (metrics.DriftPerMinute, (TRACKS[:, :, 0, 0],)),
}


def gathered(other: Metric) -> Callable[..., list[Tensor]]:
    """Stand in for all_gather: each state of this rank, then that of the other, in the order they are asked for."""
    states = iter([getattr(other, name) for name in other._reductions])
    return lambda state, group=None: [state, next(states)]


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_measure_as_one(name: str) -> None:
    make, arguments = CASES[name]
    whole, other = make(), make()
    whole.update(*arguments)
    other.update(*(a[3:] for a in arguments))
    options: dict[str, Any] = {"dist_sync_fn": gathered(other), "distributed_available_fn": lambda: True}
    mine = make(**options)
    mine.update(*(a[:3] for a in arguments))
    alone = make()
    alone.update(*(a[:3] for a in arguments))
    assert whole.compute().isfinite() and alone.compute() != whole.compute()
    torch.testing.assert_close(mine.compute(), whole.compute(), rtol=1e-5, atol=1e-7)


def test_two_ranks_count_blinks_as_one() -> None:
    """Blinks per minute weigh each clip by its length, on whichever rank it is; durations the clips that blink."""
    tracks = TRACKS.mean(1, keepdim=True).repeat(1, 100, 1, 1)
    tracks[:, :, [41, 40, 47, 46]] = tracks[:, :, [37, 38, 43, 44]] + torch.tensor([0.0, 10.0])
    for clip, length in enumerate((4, 4, 8)):
        tracks[clip, 50 : 50 + length, [41, 40, 47, 46], 1] -= 8
    for make, expected in ((metrics.BlinkRate, 3 / (5 * 100 / 25 / 60)), (metrics.BlinkDuration, None)):
        whole, other = make(), make()
        for clip in tracks:
            whole.update(clip)
        for clip in tracks[2:]:
            other.update(clip)
        mine = make(dist_sync_fn=gathered(other), distributed_available_fn=lambda: True)
        for clip in tracks[:2]:
            mine.update(clip)
        durations = [metrics.find_blinks(clip, 25.0).duration for clip in tracks[:3]]
        assert whole.compute().item() == pytest.approx(expected or sum(durations) / 3, rel=1e-5)
        assert mine.compute().item() == pytest.approx(whole.compute().item())
    assert durations[2] > 1.5 * durations[0]


def test_two_ranks_compare_seeds_as_one() -> None:
    """Each rank has its own portraits; a portrait's seeds are together."""
    seeds = [TRACKS[:2], TRACKS[2:4], TRACKS[1:5]]
    whole, other = metrics.HeadDiversity(), metrics.HeadDiversity()
    for one in seeds:
        whole.update(one)
    for one in seeds[1:]:
        other.update(one)
    mine = metrics.HeadDiversity(dist_sync_fn=gathered(other), distributed_available_fn=lambda: True)
    mine.update(seeds[0])
    expected = sum(metrics.head_diversity(one).item() for one in seeds) / 3
    assert whole.compute().item() == pytest.approx(expected, rel=1e-5)
    assert mine.compute().item() == pytest.approx(expected, rel=1e-5)
