"""Pages that need no other file and no network: their tables and pictures are inside them."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from talkhead.media.files import write_whole
from talkhead.media.jpeg import encode_jpeg

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1200px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0}th,td{padding:.3em .7em;border-bottom:1px solid #ddd;text-align:right}
th:first-child,td:first-child{text-align:left;position:sticky;left:0;background:#fff}
td{vertical-align:top}td img{max-width:none}div.wide{overflow-x:auto}img{max-width:100%}
div.row{display:flex;flex-wrap:wrap;gap:1em}figure{margin:0;width:180px}
tr.nothing{color:#777}dt{font-weight:600}
"""


def write_html(path: Path, title: str, heading: str, parts: Sequence[str]) -> None:
    """Write a page, whole or not at all.

    Args:
        path: an .html file; its folder exists.
        title: of the window.
        heading: of the page.
        parts: its body, HTML already.

    Raises:
        OSError: if it cannot be written.
    """
    text = (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{html.escape(title)}</title>"
        f"<style>{_STYLE}</style><h1>{html.escape(heading)}</h1>{''.join(parts)}</html>\n"
    )
    write_whole(path, text.encode(errors="backslashreplace"))  # names that are no UTF-8, as the manifest has them


def section(title: str, *parts: str) -> str:
    """Return parts under a heading."""
    return f"<h2>{html.escape(title)}</h2>{''.join(parts)}"


def html_table(head: Sequence[str], body: Sequence[Sequence[str]], kind: Callable[[str], str] = lambda row: "") -> str:
    """Return a table of texts.

    Args:
        head: the columns' headings.
        body: rows of as many cells.
        kind: gives a row's class in `_STYLE` by its first cell.
    """
    heading = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    rows = ""
    for row in body:
        mark = f" class='{kind(row[0])}'" if kind(row[0]) else ""
        rows += f"<tr{mark}>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
    return f"<div class='wide'><table><tr>{heading}</tr>{rows}</table></div>"


def html_facts(facts: Mapping[str, str]) -> str:
    """Return names and what is to be said about each."""
    return "<dl>" + "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in facts.items()) + "</dl>"


def html_picture(picture: Tensor, width: int | None = None) -> str:
    """Return a (3, H, W) uint8 picture as JPEG of quality 88, ``width`` px wide where it is given."""
    size = "" if width is None else f"width='{width}' "
    return f"<img {size}alt='' src='data:image/jpeg;base64,{base64.b64encode(encode_jpeg(picture, 88)).decode()}'>"


def html_figure(figure: Any) -> str:
    """Return a matplotlib figure."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return f"<img alt='' src='data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}'>"
