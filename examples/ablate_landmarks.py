"""Compare versions of the landmark generator: the same clips, recipe, seed and number of epochs for each.

    python examples/ablate_landmarks.py --root CACHE --epochs 15 --output runs/ablate_landmarks
    python examples/ablate_landmarks.py --root CACHE --epochs 15 --output runs/ablate_encoder --encoder WHISPER

Trains `--config landmark` once per row and measures the last epoch on the test clips, the portrait shown. The first
form compares the parts of the shipped net; the second has a pretrained speech encoder (name or folder) for log-mel.
Prints a Markdown table and writes it to OUTPUT/table.md. Arguments after `--` go to every `talkhead fit`, as
in `-- --data.split sentence`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from talkhead.training import shipped_configs, training_cli

ROWS = {
    "raw branch alone": ["net.init_args.branches=[raw]"],
    "log-mel branch alone": ["net.init_args.branches=[content]"],
    "both, concatenated": ["net.init_args.fusion=concat"],
    "both, KAN": [],
    "KAN, all coordinates of the portrait": [
        "net.init_args.portrait_view=points",
        "net.init_args.habits=1",
        "net.init_args.portrait_noise=0.2",
    ],
    "KAN, no velocity and opening losses": ["velocity_weight=0", "opening_weight=0"],
}
ENCODER_ROWS = {
    "pretrained encoder alone": ["net.init_args.branches=[content]"],
    "raw branch and pretrained encoder, concatenated": ["net.init_args.fusion=concat"],
    "raw branch and pretrained encoder, KAN": [],
}
COLUMNS = ("M-LD", "F-LD", "M-LD_centred", "F-LD_centred", "opening_correlation", "opening_variance_ratio")


def measure(options: list[str], folder: Path, args: argparse.Namespace, extra: list[str]) -> list[float]:
    """Train one row and return its test metrics in the order of ``COLUMNS``."""
    shared = ["--data.root", str(args.root), "--trainer.max_epochs", str(args.epochs)]
    where = ["--trainer.default_root_dir", str(folder), "--trainer.check_val_every_n_epoch", str(args.epochs)]
    changes = [f"--model.init_args.{option}" for option in options]
    cli = training_cli()(shipped_configs(["fit", "--config", "landmark", *shared, *where, *changes, *extra]))
    (result,) = cli.trainer.test(cli.model, cli.datamodule, verbose=False)
    return [result[f"test/{name}_shown"] for name in COLUMNS]


def main() -> None:
    """Train and measure every row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="cache folder of `talkhead preprocess`")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--encoder", help="name or folder of a pretrained encoder: compare what is made of it instead")
    parser.add_argument("--encoder-seconds", type=float, help="length of the pieces that Whisper hears")
    parser.add_argument("--output", type=Path, default=Path("runs/ablate_landmarks"))
    parser.add_argument("extra", nargs="*", help="further arguments of `talkhead fit`, after --")
    args = parser.parse_args()
    lines = [f"| | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    heard = {"encoder": args.encoder, "encoder_seconds": args.encoder_seconds}
    shared = [f"net.init_args.{name}={value}" for name, value in heard.items() if value]
    for number, (name, options) in enumerate((ENCODER_ROWS if args.encoder else ROWS).items()):
        options = [*options, *shared]
        values = measure(options, args.output / f"row{number}", args, args.extra)
        lines.append(f"| {name} | {' | '.join(f'{v:.3f}' for v in values)} |")
        print(*lines, sep="\n", flush=True)
        (args.output / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
