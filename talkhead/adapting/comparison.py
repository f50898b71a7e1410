"""The held-out clips before and after the adaptation, beside what costs nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from talkhead.data.clip import emotion_probabilities
from talkhead.evaluate.bench import read_clip, tracked, write_strip
from talkhead.evaluate.motions import move_landmarks
from talkhead.evaluate.report import ClipLog, Scores, average, fingerprint
from talkhead.evaluate.rows import (
    NO_MOTION,
    REPEATED,
    WARPED,
    Painting,
    Truth,
    detect_row,
    make_truth,
    paint_model,
    paint_repeated,
    paint_warped,
    score_landmarks,
    score_pictures,
)
from talkhead.nets.conformer import ConformerClassifier
from talkhead.nets.landmark import LandmarkNet
from talkhead.nets.renderer import Renderer
from talkhead.schedulers import Scheduler
from talkhead.speaker.references import Bank
from talkhead.tracking.track import LandmarkDetector

BEFORE = "before: the base speaker, one portrait"
AFTER_ONE = "after: one portrait"
AFTER = "after: and the person's own mouths"
NET_BEFORE, NET_AFTER = "before: the base speaker's net", "after"
SCORED = 100
"""Frames of each held-out clip that are judged."""
STRIP = ("truth", REPEATED, WARPED, BEFORE, AFTER)


@dataclass(frozen=True)
class Networks:
    """A speaker's networks in memory.

    Attributes:
        renderer: paints.
        scheduler: its process.
        landmark_net: moves the face.
        emotion_net: hears the emotion; None: neutral is told.
    """

    renderer: Renderer
    scheduler: Scheduler
    landmark_net: LandmarkNet
    emotion_net: ConformerClassifier | None


@dataclass(frozen=True)
class Comparison:
    """Compares two sets of networks on clips.

    Attributes:
        before: the base speaker's.
        after: the adapted ones.
        bank: the person's mouths; None: the renderer takes none.
        detector: finds landmarks on painted frames; None leaves those columns empty.
        options: for ``render_windows``.
    """

    before: Networks
    after: Networks
    bank: Bank | None
    detector: LandmarkDetector | None
    options: Mapping[str, Any]

    def __call__(self, root: Path, names: Sequence[str], folder: Path, verbose: bool) -> dict[str, Scores]:
        """Score the clips, going on from ``folder``'s log; write the first one's pictures to ``strip.png`` there.

        Returns:
            Table name (``pictures``, ``landmarks``) -> row -> column -> mean over the clips.
        """
        log = ClipLog(folder / "comparison.jsonl", self._settings(names))
        strip = folder / "strip.png"
        if not strip.is_file():
            log.done.pop(names[0], None)
        clips = [log.get(name, partial(self._score, root, name, strip)) for name in tracked(names, "judging", verbose)]
        return {table: average([clip[table] for clip in clips]) for table in ("pictures", "landmarks")}

    def _settings(self, names: Sequence[str]) -> dict[str, Any]:
        nets = (self.before, self.after)
        weights = [fingerprint(n.renderer, n.landmark_net, n.emotion_net) for n in nets]
        bank = None if self.bank is None else json.dumps(self.bank[1].flatten()[:50].tolist())
        detector = getattr(self.detector, "name", None)
        return {"weights": weights, "bank": bank, "names": list(names), "detector": detector, **self.options}

    def _score(self, root: Path, name: str, strip: Path) -> dict[str, Scores]:
        truth = make_truth(read_clip(root, name, SCORED), self.detector)
        paintings = self._paint(truth)
        if not strip.is_file():  # of the first clip
            shown = {"truth": truth.frames, **{row: painting.frames for row, painting in paintings.items()}}
            write_strip(strip, [shown[row] for row in STRIP if row in shown])
        pictures = {row: self._judged(row, painting, truth) for row, painting in paintings.items()}
        return {"pictures": pictures, "landmarks": self._moved(truth)}

    def _paint(self, truth: Truth) -> dict[str, Painting]:
        label = emotion_probabilities(truth.clip.emotion)

        def paint(networks: Networks, **more: Any) -> Painting:
            return paint_model(networks, truth, truth.landmarks, label, {**self.options, **more})

        rows = {REPEATED: paint_repeated(truth), WARPED: paint_warped(truth), BEFORE: paint(self.before)}
        rows[AFTER_ONE] = paint(self.after)
        if self.bank is not None:
            rows[AFTER] = paint(self.after, bank=self.bank)
        return rows

    def _judged(self, row: str, painting: Painting, truth: Truth) -> dict[str, float]:
        found = detect_row(row, painting, truth, self.detector)
        return score_pictures(painting.frames, truth, found, painting.calls, painting.seconds)

    def _moved(self, truth: Truth) -> Scores:
        rows = {NO_MOTION: score_landmarks(truth.reference_landmarks.expand_as(truth.landmarks), truth)}
        for row, networks in ((NET_BEFORE, self.before), (NET_AFTER, self.after)):
            rows[row] = score_landmarks(move_landmarks(networks, truth)[0], truth)
        return rows


def on_device(networks: Networks, device: torch.device) -> Networks:
    """Return the networks on a device."""
    for net in (networks.renderer, networks.landmark_net, networks.emotion_net):
        if net is not None:
            net.eval().to(device)
    return networks
