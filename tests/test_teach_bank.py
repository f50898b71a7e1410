"""`examples/teach_bank.py` changes nothing but what further pictures reach."""

import runpy
from pathlib import Path

import torch

from talkhead.nets.renderer import Renderer

EXAMPLE = Path(__file__).parents[1] / "examples" / "teach_bank.py"


def test_one_portrait_is_painted_as_before_and_pictures_are_not():
    torch.manual_seed(0)
    renderer = Renderer(size=32, widths=(8, 16), patch=2, bank=2)
    torch.nn.init.normal_(renderer.unet.head.weight, std=0.05)
    picture, points = torch.rand(1, 3, 32, 32), 6 + 20 * torch.rand(1, 68, 2)
    target = points[:, None] + torch.randn(1, 3, 68, 2)
    bank = torch.rand(1, 2, 3, 32, 32), points[:, None] + torch.randn(1, 2, 68, 2)
    alone, helped = (renderer.prepare(picture, points, target, bank=further) for further in (None, bank))
    emotion = torch.full((1, 8), 1 / 8)

    def painted() -> list[torch.Tensor]:
        with torch.no_grad():
            return [renderer(one.noise, 999, one, emotion) for one in (alone, helped)]

    before = painted()
    runpy.run_path(str(EXAMPLE))["only_the_bank_learns"](renderer)
    optimizer = torch.optim.Adam([weight for weight in renderer.parameters() if weight.requires_grad], lr=0.1)
    renderer(helped.noise, 999, helped, emotion).square().mean().backward()
    optimizer.step()
    after = painted()
    assert torch.equal(after[0], before[0])
    assert (after[1] - before[1]).abs().max() > 1e-3
