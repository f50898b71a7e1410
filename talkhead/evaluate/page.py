"""One HTML page of a judgement, with everything it shows inside it: tables, plots, a scatter per clip, pictures."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from talkhead.evaluate.report import Report, Table
from talkhead.evaluate.video_scores import ALIVE, STILL, TRUTH
from talkhead.media.files import write_whole

SCATTER = {"m_ld": "M-LD, px256", "psnr": "PSNR, dB", "sync_match": "sync match", "lips": "lip dynamics, px256"}
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1200px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0}th,td{padding:.3em .7em;border-bottom:1px solid #ddd;text-align:right}
th:first-child,td:first-child{text-align:left}div.wide{overflow-x:auto}img{max-width:100%}
tr.nothing{color:#777}td.best{font-weight:600}dt{font-weight:600}
"""


def write_page(
    path: Path, report: Report, methods: Sequence[str], shown: Mapping[str, Mapping[str, Tensor]], most: int = 6
) -> None:
    """Write the page, whole or not at all; it needs no other file and no network.

    Args:
        path: an .html file.
        report: of ``judge``.
        methods: the rows that are judged, beside the truth and the still picture.
        shown: clip -> row -> (3, s, s) uint8, a frame to show.
        most: how many clips' pictures are shown.

    Raises:
        OSError: if it cannot be written.
    """
    parts = [f"<h2>{html.escape(table.title)}</h2>{_table(table)}" for table in report.tables.values()]
    parts.append(f"<h2>How close to life</h2>{_image(_closeness(report, methods))}")
    parts.append(f"<h2>Each clip</h2>{_image(_scatter(report, methods))}")
    pictures = [_pictures(name, rows, methods) for name, rows in list(shown.items())[:most] if rows]
    parts.append(f"<h2>Side by side</h2><p>The middle frame of each clip.</p>{''.join(pictures)}")
    facts = "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in report.protocol.items())
    parts.append(f"<h2>Protocol</h2><dl>{facts}</dl>")
    text = (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>Videos judged</title><style>{_STYLE}</style>"
        f"<h1>{html.escape(', '.join(methods))}</h1>{''.join(parts)}</html>\n"
    )
    write_whole(path, lambda file: file.write(text.encode()))


def _table(table: Table) -> str:
    """Return a table; columns that nobody has are left out."""
    head, *body = table.cells()
    kept = [0, *(n for n in range(1, len(head)) if any(row[n] != "-" for row in body))]
    heading = "".join(f"<th>{html.escape(head[n])}</th>" for n in kept)
    rows = ""
    for row in body:
        kind = " class='nothing'" if row[0] in (STILL, TRUTH) else ""
        rows += f"<tr{kind}>" + "".join(f"<td>{html.escape(row[n])}</td>" for n in kept) + "</tr>"
    return f"<div class='wide'><table><tr>{heading}</tr>{rows}</table></div>"


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
            most = [max((rows[r].get(key, 0.0) for r in shown), default=1.0) or 1.0 for key in ALIVE]
            values = [value / top for value, top in zip(values, most, strict=True)]
        places = [n + 0.8 * (number + 0.5) / len(shown) - 0.4 for n in range(len(ALIVE))]
        axes.bar(places, [max(v, -1.0) if math.isfinite(v) else 0 for v in values], 0.8 / len(shown), label=row)
    axes.set_xticks(range(len(ALIVE)), list(ALIVE.values()))
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_ylabel("closeness to the truth" if paired else "over the largest")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=4, frameon=False)
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
        axes.set_xticks(range(len(rows)), [row.split(" (")[0] for row in rows], rotation=30, ha="right", fontsize=8)
        axes.set_title(label, fontsize=10)
    return figure


def _pictures(name: str, rows: Mapping[str, Tensor], methods: Sequence[str]) -> str:
    """Return a clip's frames in a row, each under its method's name."""
    from PIL import Image

    cells = ""
    for row in (TRUTH, STILL, *methods):
        if row not in rows:
            continue
        file = io.BytesIO()
        Image.fromarray(rows[row].permute(1, 2, 0).contiguous().numpy()).save(file, format="JPEG", quality=88)
        data = base64.b64encode(file.getvalue()).decode()
        cells += f"<td><img width='180' alt='' src='data:image/jpeg;base64,{data}'><br>{html.escape(row)}</td>"
    return f"<h3>{html.escape(name)}</h3><div class='wide'><table><tr>{cells}</tr></table></div>"


def _image(figure: Any) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return f"<img alt='' src='data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}'>"
