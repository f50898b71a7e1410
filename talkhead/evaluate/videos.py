"""``judge``: the videos of any method, side by side with the truth and with a picture that does nothing.

Files are matched by their place below their folder, without the ending. What had to be reconciled (rate, length, size,
place of the face) is said for every clip, and what failed is counted beside every mean.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from talkhead.evaluate.bench import reason_of, tracked
from talkhead.evaluate.named_media import find_media, name_methods
from talkhead.evaluate.page import MOST, write_page
from talkhead.evaluate.report import Report, Scores, Table, environment, results_folder
from talkhead.evaluate.video_scores import (
    OUR_COLUMNS,
    PAPER_COLUMNS,
    STILL,
    TRUTH,
    average_clips,
    judge_clip,
)
from talkhead.face.crop import Crop, crop_frames, face_crop
from talkhead.media.read import iter_frames, probe, read_audio
from talkhead.nets.sync import SyncNet
from talkhead.speaker import trained
from talkhead.tracking.track import LandmarkDetector, load_detector, track_landmarks


@dataclass(frozen=True)
class Take:
    """One video as it is judged.

    Attributes:
        frames: (T, 3, s, s) uint8, the face's square.
        landmarks: (T, 68, 2) px of ``frames``.
        found: share of the frames in which a face was found.
        audio: (S,) at 16 kHz, the sound of the same time; None: silent.
        fps: frames per second.
        notes: what was done to the file to make it so.
    """

    frames: Tensor
    landmarks: Tensor
    found: float
    audio: Tensor | None
    fps: float
    notes: list[str] = field(default_factory=list)


def judge(
    videos: Mapping[str, str | Path] | Sequence[str | Path | tuple[str, str | Path]],
    output: str | Path,
    *,
    truth: str | Path | None = None,
    audio: str | Path | None = None,
    detector: str | LandmarkDetector = "dlib",
    sync: SyncNet | str | Path | None = None,
    size: int = 256,
    limit: int | None = None,
    num_frames: int | None = None,
    device: str = "auto",
    verbose: bool = True,
) -> Report:
    """Judge the videos of one or more methods.

    Writes ``videos.json``, ``videos.md`` and ``videos.html``, which holds everything it shows. Folders are read with
    the folders in them; ``happy/001.mp4`` of the one is compared with ``happy/001.webm`` of the other.

    Args:
        videos: name of a method -> folder; or pairs of both; or folders, named after themselves.
        output: folder for the results, made where it is missing.
        truth: folder of the true videos; None: the measures that need no truth.
        audio: folder of the speech, where the videos are silent or hold another sound than they should be judged by;
            None: the truth's sound, else the video's own.
        detector: finds the faces, in all videos alike.
        sync: judge of synchrony: a net, or a checkpoint of ``talkhead fit --config sync``, or a folder that
            ``SyncNet.save_pretrained`` wrote; None leaves its columns empty.
        size: px, side of the face's square at which videos are compared.
        limit: take only the first clips that a method has, in order of name.
        num_frames: take only each video's first frames.
        device: where faces are looked for, if ``detector`` has to be loaded; "auto": the GPU where there is one.
        verbose: show a progress bar and the tables.

    Returns:
        The tables (``"paper"`` with a truth, ``"ours"``), the protocol, and each clip's scores and notes.

    Raises:
        FileNotFoundError: if a folder does not exist.
        ValueError: if a folder holds no video, or none named like a true one, none could be judged, ``limit`` is
            below 1, ``num_frames`` below 2 or ``size`` below 11.
        OSError: if the output cannot be written.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1 clip, or None for all; got {limit}")
    if size < 11:
        raise ValueError(f"size must be at least 11 px, which SSIM's windows are; got {size}")
    if num_frames is not None and num_frames < 2:
        raise ValueError(f"num_frames must be at least 2, or None for all; got {num_frames}")
    methods = name_methods(videos)
    files, truths, sounds = find_media(methods, truth, audio)
    theirs = {name for found in files.values() for name in found}
    names = sorted(truths or theirs)
    if limit is not None:
        names = [name for name in names if name in theirs][:limit]
    finder = load_detector(detector, device) if isinstance(detector, str) else detector
    expert = load_sync(sync)
    folder = results_folder(output)
    clips: dict[str, Any] = {}
    shown: dict[str, dict[str, Tensor]] = {}
    for name in tracked(names, "judging", verbose):
        clips[name], pictures = _judge_name(name, files, truths, sounds, finder, expert, size, num_frames)
        if pictures and len(shown) < MOST:
            shown[name] = pictures
    report = make_report(clips, list(methods), truth is not None, finder.name, size, expert is not None)
    if num_frames is not None:
        report.protocol["clips"] += f"; the first {num_frames} frames of each"
    lone = {name: len(found.keys() - truths.keys()) for name, found in files.items()} if truths else {}
    if any(lone.values()):
        said = ", ".join(f"{count} of {name}" for name, count in lone.items() if count)
        report.protocol["left out"] = f"videos without a truth of their name: {said}"
    report.save(folder, "videos")
    write_page(folder / "videos.html", report, list(methods), shown)
    if verbose:
        report.print()
    return report


def _judge_name(
    name: str,
    files: Mapping[str, Mapping[str, Path]],
    truths: Mapping[str, Path],
    sounds: Mapping[str, Path],
    detector: LandmarkDetector,
    expert: SyncNet | None,
    size: int,
    num_frames: int | None,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Judge all methods' videos of one name: their scores, notes and failures, and a few of their frames."""
    scores: Scores = {}
    notes: dict[str, list[str]] = {}
    failed: dict[str, str] = {}
    takes: dict[str, Take] = {}
    true: Take | None = None
    place: tuple[Crop, tuple[int, int]] | None = None
    sound: Tensor | None = None
    own_rows = [*([TRUTH] if name in truths else []), *files]
    try:
        sound = None if name not in sounds else read_audio(sounds[name])
    except (ValueError, OSError) as error:
        failed = {row: f"the speech: {reason_of(error)}" for row in own_rows}
    if name in truths and not failed:
        try:
            true, crop, whole = read_take(truths[name], detector, size, sound=sound, num_frames=num_frames)
            place = (crop, whole)
            takes[TRUTH] = true
        except (ValueError, OSError) as error:
            failed = {row: f"the truth: {reason_of(error)}" for row in own_rows}
    for method, found in files.items():
        if method in failed:
            continue
        if name not in found:
            failed[method] = "no such file"
            continue
        try:
            heard = sound if sound is not None or true is None else true.audio
            first = true or next(iter(takes.values()), None)
            takes[method], *_ = read_take(
                found[name], detector, size, true=true, fps=None if first is None else first.fps, place=place,
                sound=heard, num_frames=num_frames,
            )  # fmt: skip
            notes[method] = takes[method].notes
            if sounds and sound is None:
                notes[method].append(
                    "no speech of its name: judged by " + ("its own sound" if true is None else "the truth's")
                )
        except (ValueError, OSError) as error:
            failed[method] = reason_of(error)
    if takes:
        takes[STILL] = still(true or next(iter(takes.values())))
    scores = {row: judge_clip(take, true if row != TRUTH else None, expert) for row, take in takes.items()}
    # Copies: a view would keep the whole video.
    frames = {row: take.frames[len(take.frames) // 2].clone() for row, take in takes.items()}
    return {"scores": scores, "notes": notes, "failed": failed}, frames


def read_take(
    path: Path,
    detector: LandmarkDetector,
    size: int,
    *,
    true: Take | None = None,
    fps: float | None = None,
    place: tuple[Crop, tuple[int, int]] | None = None,
    sound: Tensor | None = None,
    num_frames: int | None = None,
) -> tuple[Take, Crop, tuple[int, int]]:
    """Read a video, bring it to another's rate and length, and cut its face out as the other's was.

    A video of the truth's frame size is cut at the truth's place. One of another size but the same shape is cut at the
    truth's place, scaled. Any other, such as a square around the face, is cut around its own face by the same rule.
    Only the squares are held.

    Args:
        path: the video.
        detector: finds the face.
        size: px, side of the square.
        true: the truth; None: the video's own length.
        fps: frames per second to bring it to, the truth's or, without one, the first method's; None: its own.
        place: the truth's crop, and the (height, width) in px of the pictures that it lies in.
        sound: (S,) the speech to judge by; None: the file's own.
        num_frames: take only the first frames.

    Returns:
        The video, the crop, and the (height, width) of its pictures.

    Raises:
        ValueError: if it cannot be read, or holds no face in most of its frames.
    """
    notes = []
    info = probe(path)
    if info.fps is None or info.height is None or info.width is None:
        raise ValueError(f"'{path}' holds no picture")
    own, whole = float(info.fps), (info.height, info.width)
    if fps is not None and abs(own - fps) > 0.01:
        notes.append(f"{own:.3f} frames per second brought to {fps:.3f}" + (", the first's" if true is None else ""))

    def pictures() -> Iterator[Tensor]:
        return itertools.islice(iter_frames(path, fps), num_frames)

    crop = None
    if place is not None:
        crop = place_in(place, whole, notes)
    if crop is None:
        # How long the face may be missing is asked of the squares.
        track, _ = track_landmarks(pictures(), detector, missing="interpolate", max_gap=sys.maxsize)
        crop = face_crop(track)
    square = torch.cat([crop_frames(frame[None], crop, size) for frame in pictures()])
    if true is not None and len(square) != len(true.frames):
        length = f"{len(square)} frames beside the truth's {len(true.frames)}"
        notes.append(f"{length}: the first ones of both are compared")
    landmarks, confidence = track_landmarks(square, detector, missing="interpolate", max_gap=len(square) // 2)
    audio = own_sound(path) if sound is None else sound
    if true is not None:
        count = min(len(square), len(true.frames))
        square, landmarks, confidence = square[:count], landmarks[:count], confidence[:count]
    found = (confidence > 0).float().mean().item()
    return Take(square, landmarks, found, audio, own if fps is None else fps, notes), crop, whole


def place_in(place: tuple[Crop, tuple[int, int]], whole: tuple[int, int], notes: list[str]) -> Crop | None:
    """Return the truth's crop in pictures of another size, or None where they have another shape."""
    crop, (height, width) = place
    if whole == (height, width):
        return crop
    if abs(whole[0] * width - whole[1] * height) <= 0.01 * whole[1] * height:
        factor = whole[1] / width
        notes.append(f"{whole[1]} x {whole[0]} px, the truth has {width} x {height}: cut at the same place, scaled")
        return Crop(round(crop.x * factor), round(crop.y * factor), max(1, round(crop.side * factor)))
    notes.append(f"{whole[1]} x {whole[0]} px, of another shape than the truth: cut around its own face")
    return None


def still(take: Take) -> Take:
    """Return the video's first frame, held: what doing nothing scores."""
    return Take(
        take.frames[:1].expand_as(take.frames),
        take.landmarks[:1].expand_as(take.landmarks),
        1.0,
        take.audio,
        take.fps,
    )


def own_sound(path: Path) -> Tensor | None:
    """Return a video's sound, or None where it is silent."""
    try:
        sound = read_audio(path)
    except ValueError:
        return None
    return sound if len(sound) and sound.abs().max() > 0 else None


def load_sync(sync: SyncNet | str | Path | None) -> SyncNet | None:
    """Return the judge of synchrony.

    Raises:
        FileNotFoundError: if there is no such file or folder.
        ValueError: if it is no judge of synchrony.
    """
    if sync is None or isinstance(sync, SyncNet):
        return sync
    if not Path(sync).exists():
        raise FileNotFoundError(f"sync: no checkpoint or folder '{sync}'; make one with `talkhead fit --config sync`")
    return trained.load_sync(sync).parts["net"].eval()


def make_report(
    clips: Mapping[str, Any], methods: Sequence[str], paired: bool, detector: str, size: int, judged: bool
) -> Report:
    """Average the clips into the tables, with the protocol.

    Raises:
        ValueError: if no video of any method could be judged.
    """
    judged_rows = {row for clip in clips.values() for row in clip["scores"]}
    rows = [row for row in (TRUTH, STILL) if row in judged_rows] + list(methods)  # a method that always fails, too
    if not judged_rows & set(methods):
        reasons = sorted({reason for clip in clips.values() for reason in clip["failed"].values()})
        raise ValueError(f"videos: none could be judged; {reasons[0] if reasons else 'no names match'}")
    means = average_clips([clip["scores"] for clip in clips.values()], rows)
    for row in rows:
        means[row]["clips"] = float(sum(row in clip["scores"] for clip in clips.values()))
        means[row]["failed"] = float(sum(row in clip["failed"] for clip in clips.values()))
    tables = {"paper": Table("As in the paper's Table 1", PAPER_COLUMNS, means)} if paired else {}
    tables["ours"] = Table("A living face", OUR_COLUMNS, means)
    notes: dict[str, int] = {}
    for clip in clips.values():
        for method, said in clip["notes"].items():
            for note in said:
                notes[f"{method}: {note}"] = notes.get(f"{method}: {note}", 0) + 1
        for method, reason in clip["failed"].items():
            notes[f"{method}: failed, {reason}"] = notes.get(f"{method}: failed, {reason}", 0) + 1
    protocol = {
        "clips": f"{len(clips)}, matched by place and name; means are over the clips that could be judged",
        "face": f"{size} x {size} px, cut at the truth's place; faces found by {detector}, tracked and smoothed alike",
        "closeness": "1 - |mean - truth's mean| / |truth's mean|, of the measures that need no truth",
        "synchrony": "talkhead's SyncNet, landmarks alone" if judged else "not judged",
        "reconciled": "; ".join(f"{note} ({count} clips)" for note, count in notes.items()) or "nothing",
    }
    return Report(tables, protocol | environment(torch.device("cpu")), dict(clips))
