"""Put what `examples/reproduce_paper.sh` left into one report: WORK/report.md and WORK/report.html.

    python examples/reproduction_report.py WORK [--rendered]

Both tables beside the paper's numbers, the data, the curves of the three trainings, how it was done, and the estimate.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from talkhead.evaluate.ablation import PAPER_PSNR, PAPER_SSIM, PAPER_STEPS
from talkhead.evaluate.html_page import html_figure, html_picture, html_table, section, write_html
from talkhead.inventory.cache_info import cache_info, facts_of, table_of
from talkhead.media.files import write_whole
from talkhead.media.read import read_image

PAPER = {
    "MEAD (paper)": (23.88, 0.53, 3.23, 3.35),
    "MakeItTalk (paper)": (26.78, 0.56, 3.23, 3.65),
    "Wav2Lip (paper)": (27.69, 0.59, 2.19, 2.33),
    "EVP (paper)": (27.63, 0.71, 1.38, 2.88),
    "proposed (paper)": (24.69, 0.85, 1.22, 1.33),
}
"""The paper's Table 1, on MEAD's M030; how it measured landmark distances it does not say."""
COLUMNS = {"psnr": ("PSNR", 2), "ssim": ("SSIM", 3), "m_ld": ("M-LD", 2), "f_ld": ("F-LD", 2)}
SMALL = (
    "These faces are pictures bent by a computer, the networks are small, the encoder's weights are random: this shows "
    "that the whole way runs, and says nothing about the paper."
)
Rows = list[list[str]]


def cells(values: dict[str, float | None]) -> list[str]:
    """Return the four columns of the paper's tables; a dash where there is no number."""
    found = [(values.get(key), digits) for key, (_, digits) in COLUMNS.items()]
    return ["-" if value is None else f"{value:.{digits}f}" for value, digits in found]


def first_table(work: Path) -> Rows:
    """Return Table 1: the paper's rows, and ours."""
    measured = json.loads((work / "table1/evaluation.json").read_text())["tables"]["pictures"]
    paper = [[name, *cells(dict(zip(COLUMNS, values, strict=True)))] for name, values in PAPER.items()]
    return [["Table 1", *(heading for heading, _ in COLUMNS.values())], *paper,
            *([name, *cells(values)] for name, values in measured.items())]  # fmt: skip


def second_table(work: Path) -> Rows:
    """Return Table 2: the paper's rows, and each point of the sweep."""
    measured = json.loads((work / "table2/ablation.json").read_text())["tables"]["ablation"]
    paper = [
        [f"t = {t} (paper)", f"{psnr:.2f}", f"{ssim:.3f}", "-", "-"]
        for t, psnr, ssim in zip(PAPER_STEPS, PAPER_PSNR, PAPER_SSIM, strict=True)
    ]
    return [["Table 2", *(heading for heading, _ in COLUMNS.values())], *paper,
            *([name, *cells(values)] for name, values in measured.items())]  # fmt: skip


def curve(run: Path, name: str) -> dict[int, float]:
    """Return a logged value of a run by its step, over all the times that it was gone on with."""
    found: dict[int, float] = {}
    for log in sorted(run.glob("logs/version_*/metrics.csv"), key=lambda p: int(p.parent.name.split("_")[1])):
        for row in csv.DictReader(log.read_text().splitlines()):
            if row.get(name):
                found[int(row["step"])] = float(row[name])
    return dict(sorted(found.items()))


def curves(work: Path) -> Figure:
    """Draw the training loss of each module."""
    figure = Figure(figsize=(11, 3), layout="constrained")
    for axes, name in zip(figure.subplots(1, 3), ("landmark", "emotion", "video"), strict=True):
        found = curve(work / name, "train/loss")
        axes.plot(list(found), list(found.values()), linewidth=1)
        axes.set(title=name, xlabel="step", ylabel="train/loss")
    return figure


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as a markdown table."""
    head, *body = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([head, "|---" * len(rows[0]) + "|", *body])


def protocol(work: Path) -> dict[str, str]:
    """Return what Table 1 was measured by, and what clips could not be measured for either table."""
    made = {"Table 1": work / "table1/evaluation.json", "Table 2": work / "table2/ablation.json"}
    reports = {table: json.loads(path.read_text()) for table, path in made.items()}
    failed = {
        f"{table}: not measured": "; ".join(f"{name}: {why}" for name, why in report["failed"].items())
        for table, report in reports.items()
        if report.get("failed")
    }
    return reports["Table 1"]["protocol"] | failed


def pictures(work: Path) -> dict[str, Any]:
    """Return what there is to look at: title -> picture."""
    confusions = sorted(
        (work / "emotion").glob("logs/version_*/confusion_matrix_val.png"), key=lambda p: p.stat().st_mtime
    )
    files = {
        "Truth, true landmarks, warped portrait, portrait": work / "table1/strip.png",
        "Table 2 as a figure": work / "table2/ablation.png",
        "The emotion classifier on validation clips": confusions[-1] if confusions else Path("none"),
    }
    return {title: read_image(path) for title, path in files.items() if path.is_file()}


def main() -> None:
    """Write both reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, metavar="WORK")
    parser.add_argument("--rendered", action="store_true", help="say that the faces are rendered")
    args = parser.parse_args()
    work, info = args.work, cache_info(args.work / "cache")
    one, two, data = first_table(work), second_table(work), table_of(info)
    facts = facts_of(info) | protocol(work)
    estimated = (work / "estimate.md").read_text() if (work / "estimate.md").is_file() else ""
    said = [SMALL] if args.rendered else []
    reasons = [f"{len(names)} {status}: {reason}" for status, reason, names in info.reasons]
    text = "\n\n".join(
        ["# The paper, reproduced", *said, markdown(one), markdown(two), "## Data", markdown([data[0], *data[1]]),
         "\n".join(f"- {line}" for line in reasons), "## How",
         "\n".join(f"- {key}: {value}" for key, value in facts.items()), "## Estimated before", estimated]
    )  # fmt: skip
    write_whole(work / "report.md", (text + "\n").encode())
    parts = [f"<p>{line}</p>" for line in said]
    parts += [section("Table 1", html_table(one[0], one[1:])), section("Table 2", html_table(two[0], two[1:]))]
    parts += [section(title, html_picture(picture)) for title, picture in pictures(work).items()]
    parts.append(section("Losses", html_figure(curves(work))))
    parts.append(section("Data", html_table(*data), *(f"<p>{line}</p>" for line in reasons)))
    parts.append(section("How", html_table(["", ""], [[key, value] for key, value in facts.items()])))
    parts.append(section("Estimated before", f"<pre>{estimated}</pre>"))
    write_html(work / "report.html", "The paper, reproduced", "The paper, reproduced", parts)
    print(work / "report.html")


if __name__ == "__main__":
    main()
