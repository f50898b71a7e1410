"""What a cache holds, on the screen, as a picture sheet and as a page."""

from __future__ import annotations

import html
from pathlib import Path

from talkhead.data.contact_sheet import contact_sheet
from talkhead.data.manifest import read_manifest
from talkhead.evaluate.html_page import html_facts, html_picture, html_table, section, write_html
from talkhead.inventory.cache_info import ALL, CacheInfo, facts_of, table_of
from talkhead.media.read import write_image

SHOWN = 5
"""Names that are listed of a group of clips."""


def print_info(info: CacheInfo) -> None:
    """Show the table, the facts and the reasons of what failed on the screen."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    head, body = table_of(info)
    grid = Table()
    for heading in head:  # folded where the screen is narrow: cut off, a cell would hide its counts
        grid.add_column(Text(heading), justify="left" if heading == head[0] else "right", overflow="fold")
    for row in body:
        if row[0] == ALL:
            grid.add_section()
        grid.add_row(*map(Text, row))  # as Text: of a person's name, rich would take [brackets] for its markup
    console.print(grid)
    for key, value in facts_of(info).items():
        console.print(f"{key}: {value}", highlight=False, markup=False, soft_wrap=True)
    for status, reason, names in info.reasons:
        console.print(
            f"{len(names)} {status}: {reason} ({_some(names)})", highlight=False, markup=False, soft_wrap=True
        )


def write_sheet(root: str | Path, path: Path) -> None:
    """Write the middle frames of up to 48 clips, spread over all, with their landmarks.

    Raises:
        ValueError: if no clip of the cache has a picture.
        OSError: if it cannot be written.
    """
    sheet = contact_sheet(root, read_manifest(root))
    if sheet is None:
        raise ValueError(f"cache: {str(root)!r} holds sound alone, there is no picture to show; leave out --sheet")
    write_image(path, sheet)


def write_info_page(root: str | Path, info: CacheInfo, path: Path, cell: int = 160) -> None:
    """Write a page with the facts, the table, the reasons of what failed, and the faces, person by person.

    Args:
        root: the cache folder.
        info: of it.
        path: an .html file, whole or not at all; it needs no other file.
        cell: side of one face, px.

    Raises:
        ValueError: if a clip that is shown is damaged.
        OSError: if the page cannot be written.
    """
    entries = read_manifest(root)
    parts = [html_facts(facts_of(info)), section("Clips", html_table(*table_of(info)))]
    if info.reasons:
        rows = [[status, reason, str(len(names)), _some(names)] for status, reason, names in info.reasons]
        parts.append(section("What cannot be used", html_table(["status", "reason", "clips", "names"], rows)))
    faces = []
    for person in info.counts:
        sheet = contact_sheet(root, [e for e in entries if e.get("identity") == person], limit=12, cell=cell)
        if sheet is not None:
            faces.append(f"<h3>{html.escape(person)}</h3>{html_picture(sheet)}")
    if faces:
        told = "<p>Middle frames of up to twelve clips, in order of name, with their landmarks.</p>"
        parts.append(section("Faces", told, *faces))
    write_html(path, "A cache", Path(info.root).resolve().name, parts)


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f", and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
