"""One HTML page of a judgement, with everything it shows inside it: tables, plots, a scatter per clip, pictures."""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from talkhead.evaluate.html_page import html_facts, html_figure, html_picture, html_table, section, write_html
from talkhead.evaluate.report import Report, Table
from talkhead.evaluate.video_scores import ALIVE, STILL, TRUTH

SCATTER = {"m_ld": "M-LD, px256", "psnr": "PSNR, dB", "sync_match": "sync match", "lips": "lip dynamics, px256"}
MOST = 6
"""Clips whose pictures a page shows."""
WIDEST = 14
"""Columns that a page has room for."""


def write_page(path: Path, report: Report, methods: Sequence[str], shown: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Write the page, whole or not at all; it needs no other file and no network.

    Args:
        path: an .html file.
        report: of ``judge``.
        methods: the rows that are judged, beside the truth and the still picture.
        shown: clip -> row -> (3, s, s) uint8, a frame to show; of the first ``MOST`` clips.

    Raises:
        OSError: if it cannot be written.
    """
    parts = [section(table.title, _table(table)) for table in report.tables.values()]
    parts.append(section("How close to life", html_figure(_closeness(report, methods))))
    parts.append(section("Each clip", html_figure(_scatter(report, methods))))
    pictures = [_pictures(name, rows, methods) for name, rows in list(shown.items())[:MOST] if rows]
    parts.append(section("Side by side", "<p>The middle frame of each clip.</p>", *pictures))
    parts.append(section("Protocol", html_facts(report.protocol)))
    write_html(path, "Videos judged", ", ".join(methods), parts)


def _table(table: Table) -> str:
    """Return a table; columns that nobody has are left out, and one too wide for a page lies on its side."""
    head, *body = table.cells()
    kept = [n for n in range(1, len(head)) if any(row[n] != "-" for row in body)]
    cells = [["", *(head[n] for n in kept)], *([row[0], *(row[n] for n in kept)] for row in body)]
    if len(kept) > WIDEST:
        cells = [list(column) for column in zip(*cells, strict=True)]
    return html_table(cells[0], cells[1:], lambda row: "nothing" if row in (STILL, TRUTH) else "")


def _closeness(report: Report, methods: Sequence[str]) -> Any:
    """Draw bars: each measure's closeness to the truth, or, without a truth, its value over the largest."""
    from matplotlib.figure import Figure

    rows = report.tables["ours"].rows
    shown = [row for row in (STILL, *methods) if row in rows]
    paired = any(f"{key}_closeness" in rows[row] for row in shown for key in ALIVE)
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    axes = figure.subplots()
    for number, row in enumerate(shown):
        values = [rows[row].get(f"{key}_closeness" if paired else key, math.nan) for key in ALIVE]
        if not paired:
            most = [max((v for r in shown if (v := rows[r].get(key, 0.0)) > 0), default=1.0) for key in ALIVE]
            values = [value / top for value, top in zip(values, most, strict=True)]
        places = [n + 0.8 * (number + 0.5) / len(shown) - 0.4 for n in range(len(ALIVE))]
        axes.bar(places, [max(v, -1.0) if math.isfinite(v) else 0 for v in values], 0.8 / len(shown), label=_drawn(row))
    axes.set_xticks(range(len(ALIVE)), [textwrap.fill(label, 12) for label in ALIVE.values()])
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_ylabel("closeness to the truth" if paired else "over the largest")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=4, frameon=False)
    return figure


def _scatter(report: Report, methods: Sequence[str]) -> Any:
    """Draw every clip's value of a few measures, one column a method."""
    from matplotlib.figure import Figure

    rows = [TRUTH, STILL, *methods]
    kept = {
        key: label
        for key, label in SCATTER.items()
        if any(math.isfinite(s.get(key, math.nan)) for c in report.clips.values() for s in c["scores"].values())
    }
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    for axes, (key, label) in zip(figure.subplots(1, max(len(kept), 1), squeeze=False)[0], kept.items(), strict=False):
        for number, row in enumerate(rows):
            values = [clip["scores"][row].get(key, math.nan) for clip in report.clips.values() if row in clip["scores"]]
            spread = torch.linspace(-0.2, 0.2, max(len(values), 1)).tolist()[: len(values)]
            axes.scatter([number + s for s in spread], values, s=14, alpha=0.7)
        axes.set_xticks(
            range(len(rows)), [_drawn(row.split(" (")[0]) for row in rows], rotation=30, ha="right", fontsize=8
        )
        axes.set_title(label, fontsize=10)
    return figure


def _drawn(name: str) -> str:
    """Return a name as matplotlib draws it: to it $ begins a formula, and a legend leaves out what begins with _."""
    drawn = name.replace("$", r"\$")
    return f" {drawn}" if name.startswith("_") else drawn


def _pictures(name: str, rows: Mapping[str, Tensor], methods: Sequence[str]) -> str:
    """Return a clip's frames side by side, each under its method's name."""
    cells = "".join(
        f"<figure>{html_picture(rows[row], 180)}<figcaption>{html.escape(row)}</figcaption></figure>"
        for row in (TRUTH, STILL, *methods)
        if row in rows
    )
    return f"<h3>{html.escape(name)}</h3><div class='row'>{cells}</div>"
