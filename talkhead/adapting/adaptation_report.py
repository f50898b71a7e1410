"""What an adaptation leaves to read: was the video good, did it help, how does it look."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from talkhead.adapting.comparison import AFTER, AFTER_ONE, BEFORE, NET_AFTER, NET_BEFORE, STRIP
from talkhead.evaluate.html_page import html_facts, html_picture, html_table, section, write_html
from talkhead.evaluate.report import Scores, Table, plain
from talkhead.evaluate.rows import LANDMARK_COLUMNS, NO_MOTION, PICTURE_COLUMNS, REPEATED, WARPED
from talkhead.media.files import write_whole
from talkhead.media.read import read_image

_WORTH = 0.3
"""dB from which a difference is called one."""


@dataclass(frozen=True)
class Adaptation:
    """Everything that the report says.

    Attributes:
        name: of the speaker.
        footage: of `measure_footage`.
        remarks: on it.
        training: what was trained how long.
        held_out: names of the clips that judged, and what they are.
        tables: of `Comparison`.
        protocol: what was measured how.
    """

    name: str
    footage: Mapping[str, Any]
    remarks: list[str]
    training: Mapping[str, Any]
    held_out: Mapping[str, Any]
    tables: Mapping[str, Scores]
    protocol: Mapping[str, str]

    def keeps_bank(self) -> bool:
        """Tell whether the person's own mouths bring painted mouths nearer to the held-out clips'."""
        rows = self.tables["pictures"]
        return AFTER in rows and rows[AFTER]["mouth_psnr"] >= rows[AFTER_ONE]["mouth_psnr"]

    def keeps_net(self) -> bool:
        """Tell whether the fine-tuned landmark net moves the held-out clips' lips no worse than the base's."""
        rows = self.tables["landmarks"]
        return rows[NET_AFTER]["m_ld_centred"] <= rows[NET_BEFORE]["m_ld_centred"]

    def gain(self) -> dict[str, float]:
        """Return in dB what the speaker that is exported gains on the base, and is above the warp at the mouth."""
        rows = self.tables["pictures"]
        after = rows[AFTER if self.keeps_bank() else AFTER_ONE]
        return {
            "psnr": after["psnr"] - rows[BEFORE]["psnr"],
            "mouth_psnr": after["mouth_psnr"] - rows[BEFORE]["mouth_psnr"],
            "mouth_over_warp": after["mouth_psnr"] - rows[WARPED]["mouth_psnr"],
        }

    def verdict(self) -> list[str]:
        """Say in plain words what came of it."""
        gain = self.gain()
        said = [_helped(gain), _beside_warp(gain["mouth_over_warp"])]
        if AFTER in self.tables["pictures"] and not self.keeps_bank():
            said.append(
                "The pictures of the mouth taken from the training clips did not help on the held-out ones (another "
                "light, another camera?) and were left out."
            )
        if not self.keeps_net():
            said.append(
                "The fine-tuned landmark net moved the held-out lips no better than the base speaker's, which was kept."
            )
        good = "The video is good enough." if not self.remarks else "The video could be better, see below."
        return [*said, good]

    def save(self, folder: Path, strip: Path) -> None:
        """Write ``report.html``, which holds everything, and ``report.json``.

        Raises:
            OSError: if the folder refuses files.
        """
        told = plain({**vars(self), "gain": self.gain(), "verdict": self.verdict()})
        write_whole(folder / "report.json", (json.dumps(told, indent=1, ensure_ascii=False) + "\n").encode())
        write_html(folder / "report.html", f"{self.name}, adapted", f"{self.name}, adapted", self._parts(strip))

    def markdown(self) -> str:
        """Return verdict and tables, for the model card."""
        tables = "\n\n".join(table.markdown() for table in self._tables())
        facts = "\n".join(f"- {key}: {value}" for key, value in {**self.held_out, **self.protocol}.items())
        return f"{' '.join(self.verdict())}\n\n{tables}\n\n{facts}\n"

    def _tables(self) -> list[Table]:
        return [
            Table("Pictures", PICTURE_COLUMNS, self.tables["pictures"]),
            Table("Landmarks from the sound", LANDMARK_COLUMNS, self.tables["landmarks"]),
        ]

    def _parts(self, strip: Path) -> list[str]:
        verdict = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in self.verdict())
        listed = "".join(f"<li>{html.escape(remark)}</li>" for remark in self.remarks)
        rows = [row for row in STRIP if row == "truth" or row in self.tables["pictures"]]
        order = f"<p>From top to bottom: {html.escape('; '.join(rows))}.</p>"
        return [
            section("Verdict", verdict),
            section("How it looks, on a held-out clip", html_picture(read_image(strip)), order),
            *(section(table.title, _shown(table)) for table in self._tables()),
            section("The video", f"<ul>{listed}</ul>" if listed else "", html_facts(told(self.footage))),
            section("The training", html_facts({key: str(value) for key, value in self.training.items()})),
            section("Protocol", html_facts({**self.held_out, **self.protocol})),
        ]


def told(footage: Mapping[str, Any]) -> dict[str, str]:
    """Return the footage's numbers as texts with their units."""
    texts = {
        "length": f"{footage['seconds']:.1f} s in {footage['clips']} clips, {len(footage['lost'])} not usable",
        "frames without a face": f"{footage['faces_lost']:.1%}",
        "width of the face": f"{footage['face_pixels']:.0f} px",
        "noise": f"{footage['noise']:.1f} grey levels",
        "turns of the head": f"{footage['yaw']:.0f} degrees sideways, {footage['pitch']:.0f} up and down",
        "mouth open": f"in {footage['open_mouth']:.0%} of the frames; "
        + ("teeth not seen" if math.isnan(footage["teeth"]) else f"teeth seen in {footage['teeth']:.0%} of these"),
        "loudness": f"{footage['loudness']:.0f} dB of full scale",
    }
    offset = footage["sync_offset"]
    by = "a net that judges synchrony" if footage["sync_by"] == "expert" else "the sound's loudness, which is rough"
    late = "cannot be told" if math.isnan(offset) else f"{offset:+g} frames (+: late)"
    return {**texts, "lips against the sound": f"{late}, judged by {by}"}


def _helped(gain: Mapping[str, float]) -> str:
    psnr, mouth = gain["psnr"], gain["mouth_psnr"]
    painted = f"clips that it has not seen are painted {_db(psnr)} than before, and at the mouth {_db(mouth)}."
    better, worse = max(psnr, mouth) >= _WORTH, min(psnr, mouth) <= -_WORTH
    if better and worse:
        return f"The adaptation helped in one thing and did harm in another: {painted} Look before you use it."
    if better:
        return f"The adaptation helped: {painted}"
    if worse:
        return f"The adaptation did harm: {painted} Use the base speaker, or give more video."
    return f"The adaptation changed little: {painted} More minutes or more video may help."


def _db(difference: float) -> str:
    return f"{abs(difference):.2f} dB {'nearer to the truth' if difference >= 0 else 'further from the truth'}"


def _beside_warp(difference: float) -> str:
    if difference >= 0:
        return f"Painted mouths are {difference:.2f} dB better than those of a picture that is only bent."
    return f"A picture that is only bent still has mouths {-difference:.2f} dB better than the painted ones."


def _shown(table: Table) -> str:
    """Return a table; columns that nobody has are left out."""
    head, *body = table.cells()
    kept = [0, *(n for n in range(1, len(head)) if any(row[n] != "-" for row in body))]
    nothing = (REPEATED, WARPED, NO_MOTION)
    rows = [[row[n] for n in kept] for row in body]
    return html_table([head[n] for n in kept], rows, lambda row: "nothing" if row in nothing else "")
