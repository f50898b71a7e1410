"""Teach a renderer to use further pictures of a person, without changing what it paints from one.

    python examples/teach_bank.py CACHE --speaker SPEAKER --output renderer --minutes 12

Only those weights learn that nothing but further pictures reaches: the part of the first convolution that sees them,
and that of the last which says what their odds are multiplied by. With one portrait the renderer stays what it was, bit
for bit. CACHE is that of `talkhead fit --config video`. Each sample has one to four further pictures and is painted in
one step from the noise end, as the bundled speaker paints. The output is a renderer's folder, as in a speaker's.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import RichProgressBar
from torch import Tensor

from talkhead.data.datamodule import MEADDataModule
from talkhead.devices import chosen_device, fast_precision
from talkhead.modules.averaging import EMA
from talkhead.modules.video import VideoDiffusion
from talkhead.nets.renderer import Renderer
from talkhead.speaker.folder import find_folder, load_parts, save_part

_SEEN = 4  # channels of each further picture: three colours and its share
_BEFORE = 5  # channels of the answer that come before the odds: residual and flow


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache")
    parser.add_argument("--speaker", default="bundled", help="whose renderer learns (%(default)s)")
    parser.add_argument("--output", required=True, type=Path, help="an empty folder")
    parser.add_argument("--minutes", type=float, default=12.0, help="(%(default)s)")
    parser.add_argument("--balance-power", type=float, default=0.5, help="of data.balance (%(default)s)")
    options = parser.parse_args()
    if options.output.exists():
        parser.error(f"--output: {str(options.output)!r} is there already; choose another")
    renderer, scheduler = load_parts(find_folder(options.speaker))[2:4]
    if not renderer.config.bank:
        parser.error(f"--speaker: the renderer of {options.speaker!r} looks at one portrait alone (bank=0)")
    seed_everything(0, verbose=False)
    before, parts = copy.deepcopy(renderer.state_dict()), only_the_bank_learns(renderer)
    module = VideoDiffusion(
        renderer, scheduler, learning_rate=1e-3, last_step_share=1.0, mouth_weight=5.0, eye_weight=2.0,
        detail_weight=0.15, recolour=0.4, mirror=0.15, jitter=0.2, reshape=0.5, mingle=0.4, bank_dropout=0.0,
    )  # fmt: skip
    data = MEADDataModule(
        options.cache, batch_size=4, num_frames=8, samples_per_clip=2, split="clip", test_fraction=0.1, bank=4,
        balance="identity", balance_power=options.balance_power,
    )  # fmt: skip
    trainer = Trainer(
        accelerator="auto", devices=1, max_epochs=-1, max_time={"seconds": round(60 * options.minutes)},
        precision=fast_precision(chosen_device("auto")), gradient_clip_val=1.0, limit_val_batches=0,
        num_sanity_val_steps=0, logger=False, enable_checkpointing=False,
        callbacks=[EMA(decay=0.99), RichProgressBar()],
    )  # fmt: skip
    module.train()
    trainer.fit(module, data)
    learnt = renderer.cpu().eval().state_dict()
    for name, part in parts.items():
        before[name][part] = learnt[name][part]
    renderer.load_state_dict(before)  # a mean over the run of what never changed is off by its rounding
    save_part(renderer, options.output)
    print(f"{trainer.global_step} steps; wrote {options.output}")


def only_the_bank_learns(renderer: Renderer) -> dict[str, tuple[slice, ...]]:
    """Leave gradients to the weights alone that nothing but further pictures reaches; return which these are."""
    folded = renderer.unet.config.patch**2
    seen, said = slice(-_SEEN * renderer.config.bank * folded, None), slice(_BEFORE * folded, None)
    parts = {"unet.stem.weight": (slice(None), seen), "unet.head.weight": (said,), "unet.head.bias": (said,)}

    def keep(weight: Tensor, part: tuple[slice, ...]) -> None:
        mask = torch.zeros_like(weight)
        mask[part] = 1.0
        weight.requires_grad_(True)
        weight.register_hook(lambda gradient: gradient * mask.to(gradient))

    renderer.requires_grad_(False)
    for name, part in parts.items():
        keep(renderer.get_parameter(name), part)
    return parts


if __name__ == "__main__":
    main()
