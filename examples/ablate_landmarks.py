"""Compare versions of the landmark generator: the same clips, recipe, seed and number of epochs for each.

    python examples/ablate_landmarks.py --root CACHE --epochs 15 --output runs/ablate_landmarks

Trains `--config landmark` once per row and measures the last epoch on the test clips, the portrait shown. Prints a
Markdown table and writes it to OUTPUT/table.md. Arguments after `--` go to every `talkhead fit`, as
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
COLUMNS = ("M-LD", "F-LD", "M-LD_centred", "F-LD_centred", "opening_correlation", "opening_variance_ratio")


def measure(options: list[str], folder: Path, args: argparse.Namespace, extra: list[str]) -> list[float]:
    """Train one row and return its test metrics in the order of ``COLUMNS``."""
    shared = ["--data.root", str(args.root), "--trainer.max_epochs", str(args.epochs)]
    where = ["--trainer.default_root_dir", str(folder), "--trainer.check_val_every_n_epoch", str(args.epochs)]
    changes = [f"--model.init_args.{option}" for option in options]
    cli = training_cli()(shipped_configs(["fit", "--config", "landmark", *shared, *where, *changes, *extra]))
    (result,) = cli.trainer.test(cli.model, cli.datamodule, verbose=False)
    return [result[f"test/{name}"] for name in COLUMNS]


def main() -> None:
    """Train and measure every row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="cache folder of `talkhead preprocess`")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--output", type=Path, default=Path("runs/ablate_landmarks"))
    parser.add_argument("extra", nargs="*", help="further arguments of `talkhead fit`, after --")
    args = parser.parse_args()
    lines = [f"| | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for number, (name, options) in enumerate(ROWS.items()):
        values = measure(options, args.output / f"row{number}", args, args.extra)
        lines.append(f"| {name} | {' | '.join(f'{v:.3f}' for v in values)} |")
        print(*lines, sep="\n", flush=True)
        (args.output / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
