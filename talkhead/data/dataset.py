"""The cache as a dataset: windows of frames with their sound, and whole recordings."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from talkhead.data.clip import EMOTIONS, SAMPLE_RATE, Clip
from talkhead.data.frame_store import read_frames
from talkhead.data.manifest import open_clip, read_manifest
from talkhead.face.mouth_bank import mouth_shape

Modality = Literal["video", "landmarks", "audio"]
Reference = Literal["random", "first"]


def read_settings(root: str | Path) -> dict[str, Any]:
    """Return what a cache was made with, as ``talkhead preprocess`` wrote it down; empty where it is not told."""
    path = Path(root) / "preprocess.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise ValueError(f"data.root: {str(path)!r} is damaged; run `talkhead preprocess` again") from error
    return settings if isinstance(settings, dict) else {}


def num_samples(frames: int, fps: Fraction) -> int:
    """Return how many audio samples ``frames`` frames last: round(frames / fps * 16000).

    Example:
        >>> num_samples(75, Fraction(25))
        48000
    """
    return round(frames * SAMPLE_RATE / fps)


class ClipDataset(Dataset[Clip]):
    """The clips of a cache, whole or as windows.

    A window of T frames starting at frame s has the round(T / fps * 16000) samples from round(s / fps * 16000) on.
    With ``random`` its start is drawn anew each epoch from (seed, epoch, clip, draw), else it lies in the middle.
    Windows that hold a frame without landmarks (NaN) are never drawn. Only the bytes of the window are read
    (the first time in a process the whole file, to hold it to its checksum).

    Nothing is kept between calls: the epoch comes with the index, ``dataset[epoch, i]``, so any number of workers,
    and a run that was interrupted and resumed, see the same windows. ``dataset[i]`` is epoch 0.

    Args:
        root: the cache folder.
        names: which clips, by their names in the manifest.
        num_frames: T; None: the whole clip.
        audio_seconds: modality ``audio``: recordings longer than this are cropped to it, shorter ones are padded with
            zeros; None: whole recordings.
        random: draw starts and references at random.
        seed: of the draws.
        modality: ``video`` gives frames, landmarks and audio; ``landmarks`` leaves the frames unread; ``audio`` gives
            the audio alone, of clips with and without picture.
        samples_per_clip: draws per clip and epoch; without ``random`` there is always one.
        reference: the frame that stands for the portrait: ``first`` of the clip, or ``random``: outside the window
            where the clip is longer than it.
        bank: R, further pictures of the same person by the same camera from any of the clips, outside the window, in
            modality ``video``. Each is the one of four drawn at random whose mouth is the most open or the widest.

    Raises:
        FileNotFoundError: if ``root`` is no cache.
        ValueError: if a name is not in the manifest, or has no picture where one is wanted.
    """

    def __init__(
        self,
        root: str | Path,
        names: Sequence[str],
        num_frames: int | None = None,
        audio_seconds: float | None = None,
        random: bool = False,
        seed: int = 0,
        *,
        modality: Modality = "video",
        samples_per_clip: int = 1,
        reference: Reference = "random",
        bank: int = 0,
    ) -> None:
        entries = {e["name"]: e for e in read_manifest(root) if e["status"] == "ok"}
        if absent := [n for n in names if n not in entries]:
            raise ValueError(f"names: {absent[0]!r} is no clip of {str(root)!r}; choose of its manifest.jsonl")
        if modality != "audio" and (mute := [n for n in names if not entries[n]["frames"]]):
            raise ValueError(f"names: {mute[0]!r} has no picture; modality 'audio' reads sound-only recordings")
        if modality != "audio" and num_frames and (short := [n for n in names if room(entries[n]) < num_frames]):
            raise ValueError(
                f"names: {short[0]!r} has {entries[short[0]]['frames']} frames, fewer than num_frames={num_frames}"
            )
        self.root = Path(root)
        self.entries = [entries[n] for n in names]
        self.num_frames = num_frames
        self.audio_seconds = audio_seconds
        self.random = random
        self.seed = seed
        self.modality = modality
        self.samples_per_clip = samples_per_clip if random else 1
        self.reference = reference
        self.bank = bank
        self._clips_of: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for entry in self.entries:
            self._clips_of.setdefault(_shown_as(entry), []).append(entry)

    def __len__(self) -> int:
        return len(self.entries) * self.samples_per_clip

    def __getitem__(self, index: int | tuple[int, int]) -> Clip:
        epoch, i = index if isinstance(index, tuple) else (0, index)
        if not isinstance(index, tuple):  # a sampler may draw a clip more often
            if not -len(self) <= i < len(self):
                raise IndexError(f"index {i} is out of range for {len(self)} samples")
            i %= len(self)
        draw, place = divmod(i, len(self.entries))
        entry = self.entries[place]
        # Text seeds are hashed by Python's generator, the same in every process.
        rng = random.Random(f"{self.seed}/{epoch if self.random else 0}/{entry['name']}/{draw}")
        with open_clip(self.root, entry) as file:
            return (
                self._read_sound(file, entry, rng) if self.modality == "audio" else self._read_window(file, entry, rng)
            )

    def _read_sound(self, file: Any, entry: dict[str, Any], rng: random.Random) -> Clip:
        audio = file.get_slice("audio")
        total = audio.get_shape()[0]
        length = total if self.audio_seconds is None else round(self.audio_seconds * SAMPLE_RATE)
        room = max(total - length, 0)
        start = rng.randint(0, room) if self.random else room // 2
        valid = min(length, total)
        sound = torch.nn.functional.pad(audio[start : start + valid], (0, length - valid))
        return _clip(sound, valid, entry)

    def _read_window(self, file: Any, entry: dict[str, Any], rng: random.Random) -> Clip:
        landmarks = file.get_tensor("landmarks")
        length = self.num_frames or len(landmarks)
        seen = landmarks.isfinite().all(-1).all(-1)
        count = 1 if entry.get("stills") else length  # a still is its own window, repeated
        start = self._start(seen, count, entry["name"], rng)
        reference = self._reference(seen, start, count, entry["name"], rng)
        fps = Fraction(entry["fps"])
        samples = num_samples(length, fps)
        # Two roundings can reach one sample past the end.
        first = min(num_samples(start, fps), entry["samples"] - samples)
        window = slice(start, start + count)
        clip = {"landmarks": landmarks[window], "reference_landmarks": landmarks[reference]}
        if self.modality == "video":
            clip |= {
                "frames": read_frames(file, start, start + count),
                "reference": read_frames(file, reference, reference + 1)[0],
            }
            if self.bank:
                clip["bank"], clip["bank_landmarks"] = self._read_bank(entry, window, clip["reference"], rng)
        if count < length:
            clip |= {n: clip[n].expand(length, *clip[n].shape[1:]) for n in ("frames", "landmarks") if n in clip}
            return _clip(torch.zeros(samples), samples, entry, **clip)
        return _clip(file.get_slice("audio")[first : first + samples], samples, entry, **clip)

    def _start(self, seen: Tensor, length: int, name: str, rng: random.Random) -> int:
        """Return the first frame of a window whose frames all have landmarks (a whole clip may lack some)."""
        if self.num_frames is None:
            return 0
        starts = seen.unfold(0, length, 1).all(-1).nonzero().flatten().tolist()
        if not starts:
            raise ValueError(f"data: {name!r} has no {length} frames in a row with landmarks; preprocess it again")
        return rng.choice(starts) if self.random else starts[len(starts) // 2]

    def _reference(self, seen: Tensor, start: int, length: int, name: str, rng: random.Random) -> int:
        """Return the frame that stands for the portrait: one with landmarks, outside the window where there is one."""
        candidates = seen.nonzero().flatten().tolist()
        if not candidates:
            raise ValueError(f"data: {name!r} has no frame with landmarks; preprocess it again")
        if self.reference == "first":
            return candidates[0]
        outside = [t for t in candidates if not start <= t < start + length]
        return rng.choice(outside or candidates)

    def _read_bank(
        self, entry: dict[str, Any], window: slice, like: Tensor, rng: random.Random
    ) -> tuple[Tensor, Tensor]:
        """Return (R, 3, H, W) pictures of the clip's person and their landmarks, NaN where there is none."""
        pictures = torch.zeros(self.bank, *like.shape, dtype=torch.uint8)
        points = torch.full((self.bank, 68, 2), torch.nan)
        for place in range(self.bank):
            source = rng.choice(self._clips_of[_shown_as(entry)])
            with open_clip(self.root, source) as file:
                landmarks = file.get_tensor("landmarks")
                seen = landmarks.isfinite().all(-1).all(-1)
                if source is entry:
                    seen[window] = False
                known = seen.nonzero().flatten().tolist()
                if not known:
                    continue
                drawn = rng.sample(known, min(4, len(known)))
                best = drawn[int(mouth_shape(landmarks[drawn])[:, place % 3].argmax())]
                pictures[place], points[place] = read_frames(file, best, best + 1)[0], landmarks[best]
        return pictures, points


def _shown_as(entry: dict[str, Any]) -> tuple[str, str]:
    """Return whose pictures fit a clip's: the person, from the same side."""
    return entry["identity"], entry.get("view", "")


def room(entry: dict[str, Any]) -> float:
    """Return how many frames a window of a clip may have: as many as there are, any number of one still picture."""
    return math.inf if entry.get("stills") else entry["frames"]


def _clip(audio: Tensor, samples: int, entry: dict[str, Any], **tensors: Tensor) -> Clip:
    fps = float(Fraction(entry["fps"])) if tensors else 0.0
    return Clip(
        audio=audio,
        emotion=torch.tensor(EMOTIONS.index(entry["emotion"])),
        fps=torch.tensor(fps, dtype=torch.float32),
        samples=torch.tensor(samples),
        names=(entry["name"],),
        **tensors,
    )


def collate(clips: Sequence[Clip]) -> Clip:
    """Stack clips into a batch: every tensor gets a leading B, audio is padded with zeros to the longest.

    Args:
        clips: B clips with the same fields, number of frames, frame size and frame rate.

    Returns:
        The batch; ``samples`` (B,) keeps each clip's own number of audio samples.

    Raises:
        ValueError: if the clips differ in anything but the length of their audio.
    """
    longest = max(len(c.audio) for c in clips)
    stacked = {"audio": torch.stack([torch.nn.functional.pad(c.audio, (0, longest - len(c.audio))) for c in clips])}
    if len(rates := {round(float(c.fps), 3) for c in clips}) > 1:
        raise ValueError(
            f"data: a batch mixes frame rates {sorted(rates)}; preprocess the recordings with --fps, "
            "keep a cache for each, or set data.batch_size=1"
        )
    pictured = ("frames", "landmarks", "reference", "reference_landmarks", "bank", "bank_landmarks")
    for name in ("emotion", "fps", "samples", *pictured):
        values = [getattr(c, name) for c in clips]
        if len(shapes := {None if v is None else tuple(v.shape) for v in values}) > 1:
            raise ValueError(
                f"data: a batch mixes {name} of shapes {', '.join(sorted(map(str, shapes)))}; "
                "set data.num_frames, or data.batch_size=1"
            )
        if values[0] is not None:
            stacked[name] = torch.stack(values)
    return Clip(**stacked, names=tuple(name for clip in clips for name in clip.names))
