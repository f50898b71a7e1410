"""``adapt``: from a person's clips to a speaker of that person, in one command that can be stopped and gone on with."""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from talkhead.adapting.adaptation_report import Adaptation
from talkhead.adapting.comparison import SCORED, Comparison, Networks, on_device
from talkhead.adapting.footage import measure_footage, remarks
from talkhead.adapting.held_out import clip_seconds, seconds_of, video_seconds
from talkhead.adapting.networks import tune_landmark_net, tune_renderer
from talkhead.adapting.person import Shots, choose_mouths, choose_portrait, read_frame, read_shots
from talkhead.adapting.work import JUDGE, Work, check_place
from talkhead.data.dataset import ClipDataset
from talkhead.data.manifest import Entry, read_manifest
from talkhead.data.preprocess import preprocess
from talkhead.devices import chosen_device
from talkhead.evaluate.bench import DEFINITIONS
from talkhead.evaluate.report import environment, fingerprint
from talkhead.evaluate.videos import load_sync
from talkhead.face.crop import Crop, from_crop
from talkhead.media.read import write_audio, write_image
from talkhead.nets.renderer import Renderer
from talkhead.pipeline.talking_head import DEFAULTS
from talkhead.speaker.folder import damaged, export_pipeline, find_folder, load_fine_renderer, load_parts
from talkhead.speaker.references import Bank
from talkhead.speaker.trained import load_emotion, load_head, load_landmark, load_video
from talkhead.tracking.track import LandmarkDetector, load_detector

LEAST_SECONDS = 5.0
"""Of usable video: less cannot be divided into what teaches and what judges."""
CLIP_BOX = 1.047
"""A face's box over a clip of speech is about so many times that of one of its frames, which the speaker's crop_scale
is for (the bundled speaker: 1.5 of the clips' box, 1.57 of the portrait's)."""
NET_SHARE = 0.2
"""Of the minutes, at most, for the landmark net; the renderer has the rest."""


def adapt(
    clips: str | Path,
    output: str | Path,
    *,
    base: str | Path = "bundled",
    minutes: float | None = 10.0,
    steps: int | None = None,
    seed: int = 0,
    detector: str | LandmarkDetector | None = None,
    face: Any = "largest",
    size: int | None = None,
    sync: str | Path | None = None,
    workers: int = 1,
    device: str = "auto",
    isolate: bool = False,
    verbose: bool = True,
) -> Path:
    """Make a speaker of a person from clips of that person.

    The clips are preprocessed, a fifth of them is held out, renderer and landmark net of ``base`` are fine-tuned on the
    others, and the result is exported with a portrait and pictures of the mouth from the clips, the emotion classifier
    and the head's motion of the base, and a report (``report.html``, ``report.json``). What is made on the way lies
    in a folder beside it, ``OUTPUT.work``; stopped at any moment and called again, it goes on from there.

    Args:
        clips: a folder of videos of one person with sound, or one video; only read.
        output: the speaker's folder; it must not exist, or be what the same call has made.
        base: the speaker to start from: "bundled", a folder or a hub id. It decides frames per second.
        minutes: time of the two trainings alone, preprocessing and judging not counted: the first steps are timed and
            tell how many there are room for. None: ``steps``.
        steps: of the renderer's training, in place of minutes: the same number on every machine.
        seed: of the training and of what is held out.
        detector: finds the face; None: the base's, else "auto".
        face: which face where there are several: "largest", "center", or its place from the left.
        size: px of the squares that are learnt and painted: those of the base's renderer, or of its renderer for large
            faces, whose steps take three to four times as long; None: the former.
        sync: a checkpoint of ``talkhead fit --config sync``, to judge whether lips and sound belong together. A
            finished report must be by the same one.
        workers: processes that preprocess; with more than one, a script must start from ``if __name__ == "__main__"``.
        device: where to train; "auto": the GPU where there is one.
        isolate: see `preprocess`.
        verbose: show progress, and the verdict.

    Returns:
        The speaker's folder.

    Raises:
        FileNotFoundError: if there are no clips, or no such base.
        FileExistsError: if there is something else in ``output``.
        ValueError: if an argument is out of range, the output holds the clips or the current folder, the base is
            damaged, the clips show no face or are too short, or the work folder belongs to other clips or arguments.
    """
    if (minutes is None) == (steps is None):
        raise ValueError("give minutes or steps, one of the two, and the other as None")
    if (minutes is not None and not 0 < minutes < math.inf) or (steps is not None and steps < 1):
        raise ValueError(f"minutes must be above 0, steps at least 1; got {minutes} and {steps}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be a whole number from 0 to 2**32 - 1, as Lightning takes them; got {seed}")
    if workers < 1:
        raise ValueError(f"workers must be at least 1; got {workers}")
    check_place(output, clips)
    expert = load_sync(sync)
    place = chosen_device(device)
    start = _base(base, place)
    if size is not None and size not in start.painters:
        sizes = " or ".join(map(str, sorted(start.painters)))
        raise ValueError(f"size must be {sizes}, what the base '{start.name}' paints; got {size}")
    lengths = video_seconds(Path(clips))
    videos = f"{len(lengths)} videos, {sum(lengths.values()):.2f} s"
    told = {"videos": videos, "seed": seed, "minutes": minutes, "steps": steps, "face": face, "size": size}
    named = detector if isinstance(detector, str) or detector is None else detector.name
    finder = detector or start.info.get("detector", "auto")
    settings = {"clips": str(Path(clips).resolve()), "base": start.key, **told, "detector": named}
    work = Work(Path(output), settings)
    if work.is_done():
        work.check_judge(fingerprint(expert) if expert is not None else None)
        return _said(work.output, verbose)
    work.begin()
    start = start.painting(size or start.size)
    entries, lost = _preprocessed(Path(clips), work, start, finder, lengths, face, workers, device, isolate, verbose)
    entries, held, late = work.divided(entries, seed)
    lost += late
    untaught = held + [name for name, _ in late]
    trained = _trained(work, start, untaught, place, minutes, steps, seed, verbose)
    judge = load_detector(finder, device) if isinstance(finder, str) else finder
    teaching = [entry for entry in entries if entry["name"] not in held]
    shots = read_shots(work.folder / "cache", teaching)
    adaptation, bank = _judged(work, start, entries, lost, held, shots, trained, judge, expert, place, verbose)
    portrait = _portrait(Path(clips), work, start.fps, teaching, shots)
    _export(work, start, held, trained, adaptation, portrait, bank)
    return _said(work.output, verbose)


@dataclass(frozen=True)
class _Base:
    """The speaker that is started from."""

    name: str
    folder: Path
    networks: Networks
    fine: Renderer | None
    info: Mapping[str, Any]
    key: str

    @property
    def size(self) -> int:
        return int(self.networks.renderer.config.size)

    @property
    def painters(self) -> dict[int, Renderer]:
        """Its renderers, by the side in px of what they paint."""
        return {int(net.config.size): net for net in (self.networks.renderer, self.fine) if net is not None}

    def painting(self, size: int) -> _Base:
        """Return the same with the renderer that paints squares of that size."""
        return replace(self, networks=replace(self.networks, renderer=self.painters[size]))

    @property
    def fps(self) -> Fraction:
        return Fraction(self.info["fps"])


def _base(base: str | Path, device: torch.device) -> _Base:
    folder = find_folder(base)
    landmark, emotion, renderer, scheduler, info = load_parts(folder)
    fine = load_fine_renderer(folder)
    _check_taken_over(folder)
    networks = on_device(Networks(renderer, scheduler, landmark, emotion), device)
    name = folder.name if Path(base).is_dir() else str(base)  # `bundled` and a hub's name say more than where they lie
    fine = None if fine is None else fine.to(device)
    told = {**DEFAULTS, **info}
    told["overlap"] = min(told["overlap"], told["window"] // 2)  # as the pipeline reads it
    return _Base(name, folder, networks, fine, told, fingerprint(renderer, landmark, fine))


def _check_taken_over(folder: Path) -> None:
    """Load what the export takes over from the base as the export does, when all the work has been done."""
    loaders: dict[str, Callable[[Path], Any]] = {"emotion": load_emotion, "head": load_head}
    for name, load in loaders.items():
        try:
            if (folder / name).is_dir():
                load(folder / name)
        except ValueError as error:
            raise damaged(folder, error) from error


def _preprocessed(
    clips: Path, work: Work, start: _Base, detector: Any, lengths: dict[str, float],
    face: Any, workers: int, device: str, isolate: bool, verbose: bool,
) -> tuple[list[Entry], list[tuple[str, str]]]:  # fmt: skip
    """Cache the clips; return the usable ones with a picture, and (name, reason) of the others."""
    cache = work.folder / "cache"
    preprocess(
        "folder",
        clips,
        cache,
        size=start.size,
        scale=max(round(start.info["crop_scale"] / CLIP_BOX, 2), 1.0),
        detector=detector,
        identity="speaker",
        emotion="neutral",
        fps=start.fps,
        face=face,
        segment_seconds=clip_seconds(list(lengths.values())),
        workers=workers,
        device=device,
        isolate=isolate,
        progress=verbose,
    )
    manifest = read_manifest(cache)
    lost = [(e["name"], e["reason"]) for e in manifest if e["status"] != "ok"]
    entries = [e for e in manifest if e["status"] == "ok" and e["frames"]]
    if not entries:
        name, reason = lost[0] if lost else (clips.name, "it has no picture")
        raise ValueError(f"clips: none of '{clips}' can be used ({name}: {reason}); give videos that show one face")
    seconds = sum(map(seconds_of, entries))
    if seconds < LEAST_SECONDS:
        raise ValueError(
            f"clips: {seconds:.1f} s of usable video in '{clips}' are too little; give at least {LEAST_SECONDS:.0f} s, "
            "better 15 s and more"
        )
    return entries, lost


def _trained(
    work: Work, start: _Base, untaught: list[str], device: torch.device,
    minutes: float | None, steps: int | None, seed: int, verbose: bool,
) -> dict[str, Any]:  # fmt: skip
    """Fine-tune both networks on copies of the base's weights; return what is told of each."""
    networks = start.networks
    shared: dict[str, Any] = {"seed": seed, "device": device, "verbose": verbose}
    cache = work.folder / "cache"
    told = tune_landmark_net(
        copy.deepcopy(networks.landmark_net), cache, untaught, work.folder / "landmark",
        fps=float(start.fps), size=start.size, minutes=None if minutes is None else NET_SHARE * minutes, **shared,
    )  # fmt: skip
    left = None if minutes is None else minutes - told["seconds"] / 60
    video = tune_renderer(
        copy.deepcopy(networks.renderer), networks.scheduler, cache, untaught, work.folder / "video",
        minutes=left, steps=steps, **shared,
    )  # fmt: skip
    return {"landmark": told, "video": video}


def _judged(
    work: Work, start: _Base, entries: list[Entry], lost: list[tuple[str, str]], held: list[str], shots: Shots,
    trained: Mapping[str, Any], detector: LandmarkDetector, expert: Any, device: torch.device, verbose: bool,
) -> tuple[Adaptation, Bank | None]:  # fmt: skip
    """Compare before and after on the held-out clips, and say everything."""
    cache = work.folder / "cache"
    video = load_video(trained["video"]["checkpoint"]).parts
    net = load_landmark(trained["landmark"]["checkpoint"]).parts["net"]
    after = on_device(Networks(video["renderer"], start.networks.scheduler, net, start.networks.emotion_net), device)
    bank = choose_mouths(shots) if after.renderer.config.bank else None
    options = {name: start.info[name] for name in ("num_inference_steps", "window", "overlap")} | {"seed": 0}
    comparison = Comparison(start.networks, after, bank, detector, options)
    tables = comparison(cache, held, work.folder, verbose)
    facts = measure_footage(cache, entries, lost, expert)
    protocol = {"process": ", ".join(f"{k} {v}" for k, v in options.items())}
    protocol |= {} if expert is None else {JUDGE: fingerprint(expert)}
    adaptation = Adaptation(
        name=work.place.name,
        footage=facts,
        remarks=remarks(facts, float(start.fps)),
        training={name: _lasted(one) for name, one in trained.items()} | {"seed": str(work.settings["seed"])},
        held_out=_held_out(entries, held),
        tables=tables,
        protocol=protocol | DEFINITIONS | environment(device),
    )
    return adaptation, bank


def _lasted(told: Mapping[str, Any]) -> str:
    return f"{told['steps']} steps in {told['seconds']:.0f} s, {told['seconds_per_step']:.2f} s each"


def _held_out(entries: list[Entry], held: list[str]) -> dict[str, str]:
    """Say which clips judge, and how far they are from those that teach."""
    files = {entry["source"] for entry in entries if entry["name"] in held}
    taught = {entry["source"] for entry in entries if entry["name"] not in held}
    seconds = sum(seconds_of(entry) for entry in entries if entry["name"] in held)
    if files & taught:
        kind = "stretches of time at the ends of files whose beginnings were trained on: kinder than whole files"
    else:
        kind = "whole files"
    count = f"{len(held)} of {len(entries)} clips, {seconds:.1f} s, of each at most {SCORED} frames judged"
    choice = (
        "they also chose between the adapted and the base's landmark net and whether pictures of the mouth are kept"
    )
    return {"held out": f"{', '.join(held)}: {count}", "kind": f"{kind}; {choice}"}


def _export(
    work: Work, start: _Base, held: list[str], trained: Mapping[str, Any], adaptation: Adaptation,
    portrait: tuple[Path, torch.Tensor], bank: Bank | None,
) -> None:  # fmt: skip
    """Put the speaker together in the work folder, and move it to its place when it is whole."""
    made = work.folder / "speaker"
    shutil.rmtree(made, ignore_errors=True)
    speech = work.folder / "speech.flac"
    write_audio(speech, ClipDataset(work.folder / "cache", held[:1], reference="first")[0].audio)
    parts = {name: start.folder / name for name in ("emotion", "head") if (start.folder / name).is_dir()}
    info = start.info
    export_pipeline(
        made,
        landmark=trained["landmark"]["checkpoint"] if adaptation.keeps_net() else start.folder / "landmark",
        emotion=parts.get("emotion"),
        head=parts.get("head"),
        video=trained["video"]["checkpoint"],
        portrait=portrait[0],
        reference_landmarks=portrait[1],
        speech=speech,
        bank=bank if adaptation.keeps_bank() else None,
        crop_scale=info["crop_scale"],
        window=info["window"],
        overlap=info["overlap"],
        num_inference_steps=info["num_inference_steps"],
        name=work.place.name,
        data=f"Adapted from the speaker '{start.name}' (its card says what that was trained on) to "
        f"{adaptation.footage['seconds']:.0f} s of clips of one person.",
        licence="As the base speaker's, and as the person in the clips allows.",
        results=adaptation.markdown(),
    )
    adaptation.save(made, work.folder / "strip.png")
    work.place.parent.mkdir(parents=True, exist_ok=True)
    os.replace(made, work.place)


def _portrait(clips: Path, work: Work, fps: Fraction, teaching: list[Entry], shots: Shots) -> tuple[Path, torch.Tensor]:
    """Write the best frame of the clips that teach as a portrait; return it and its landmarks, px."""
    index = choose_portrait(shots)
    place, moment = shots.places[index]
    entry = teaching[place]
    source = (clips if clips.is_dir() else clips.parent) / entry["source"]
    first = (entry["segment"] or {"start": 0})["start"]
    path = work.folder / "portrait.png"
    write_image(path, read_frame(source, fps, first + moment))
    crop = Crop(*entry["crop"])
    return path, from_crop(shots.landmarks[index], crop, entry["size"])


def _said(output: Path, verbose: bool) -> Path:
    """Print the verdict of a finished adaptation."""
    if verbose:
        report = json.loads((output / "report.json").read_text(encoding="utf-8"))
        print("\n".join([*report["verdict"], *report["remarks"], f"{output / 'report.html'} has the rest"]))
    return output
