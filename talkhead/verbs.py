"""The command line's other verbs: the page, live, dubbing, caches, graphs, the hub, the doctor."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Callable
from typing import Any

from talkhead.cli import DETECTORS, add_device, add_references, arguments_of, emotion, face, seed
from talkhead.parsing import add_verb


def add_dub(verbs: Any) -> None:
    """Register ``talkhead dub``."""
    verb = add_verb(
        verbs,
        "dub",
        run_dub,
        "let a person in a video say something else: only the mouth changes",
        "  talkhead dub --video talk.mp4 --audio new.wav --output dubbed.mp4\n"
        "  talkhead dub --video two.mp4 --audio new.wav --output dubbed.mp4 --face 1 --length audio\n"
        "Killed and started again with the same arguments, it does not track the face again.",
    )
    verb.add_argument("--video", required=True, help="the video; its own sound tells how the person holds the mouth")
    verb.add_argument("--audio", required=True, help="the new speech: any sound or video file")
    verb.add_argument("--output", required=True, help="the dubbed video: .mp4, .mov or .webm")
    verb.add_argument(
        "--length",
        choices=["video", "audio"],
        default="video",
        help="which of the two the result is as long as (%(default)s)",
    )
    verb.add_argument("--face", type=face, default="largest", help="largest, center or an index (%(default)s)")
    verb.add_argument("--detector", choices=DETECTORS, help="what finds the face (the speaker's)")
    add_speaker(verb)
    verb.add_argument("--emotion", type=emotion, default="neutral", help="how the words are said (%(default)s)")
    verb.add_argument("--steps", dest="num_inference_steps", type=int, help="network calls per frame (the speaker's)")
    verb.add_argument("--seed", type=seed, default=0, help="of the noise (%(default)s)")


def run_dub(args: argparse.Namespace) -> int:
    """Write the dubbed video."""
    from talkhead.dubbing.dub import dub

    options = arguments_of(args)
    pipeline = loaded(options)
    print(dub(pipeline, options.pop("video"), options.pop("audio"), options.pop("output"), **options))
    return 0


def add_speaker(verb: argparse.ArgumentParser) -> None:
    """Add what chooses the networks and where they run."""
    verb.add_argument(
        "--speaker", default="bundled", help="`bundled`, a folder made by `export`, or a hub id (%(default)s)"
    )
    add_device(verb)


def loaded(options: dict[str, Any]) -> Any:
    """Take ``speaker`` and ``device`` out of a verb's options, and return the pipeline."""
    from talkhead.pipeline import TalkingHeadPipeline

    return TalkingHeadPipeline.from_pretrained(options.pop("speaker"), device=options.pop("device"))


def add_names(verb: argparse.ArgumentParser) -> None:
    """Add ``--names``."""
    what = "host names that lead here, of a proxy for one (localhost, this machine's, --host)"
    verb.add_argument("--names", nargs="+", default=[], metavar="NAME", help=what)


def add_serve(verbs: Any) -> None:
    """Register ``talkhead serve``."""
    verb = add_verb(
        verbs,
        "serve",
        run_serve,
        "a live face behind a WebSocket, with a page that shows it from the microphone",
        "  talkhead serve                                 then open http://127.0.0.1:8000\n"
        "  talkhead serve --image me.png --size 256 --look-ahead 0.24\n"
        "The protocol is in docs/live.md. Browsers give a page the microphone on this machine, or over HTTPS.",
    )
    verb.add_argument("--image", help="the portrait (the speaker's own)")
    add_references(verb, "those that the speaker brings, where IMAGE is left out")
    what = "paint a face of 230 px and more at 256 px, for up to three times the work (on a GPU alone)"
    verb.add_argument("--fine", action=argparse.BooleanOptionalAction, help=what)
    add_speaker(verb)
    verb.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0: any (%(default)s)")
    verb.add_argument("--port", type=port, default=8000, help="(%(default)s)")
    add_names(verb)
    verb.add_argument("--clients", type=int, default=2, help="how many may speak at once (%(default)s)")
    verb.add_argument("--size", type=int, default=256, metavar="PX", help="side of the picture (%(default)s)")
    verb.add_argument("--emotion", type=emotion, default="neutral", help="(%(default)s)")
    verb.add_argument("--look-ahead", type=float, default=0.12, help="s of sound heard after a frame's (%(default)s)")
    verb.add_argument("--hop", type=int, default=3, help="frames made at once (%(default)s)")
    verb.add_argument(
        "--steps", dest="num_inference_steps", type=int, default=1, help="network calls per frame (%(default)s)"
    )
    verb.add_argument("--detector", choices=DETECTORS, help="what finds the face (the speaker's)")


def run_serve(args: argparse.Namespace) -> int:
    """Serve until interrupted."""
    from talkhead.app.serve import serve
    from talkhead.speaker.folder import own_portrait

    options = arguments_of(args)
    pipeline = loaded(options)
    if options["image"] is None:
        options["image"], options["reference_landmarks"] = own_portrait(pipeline.folder, pipeline.info)
    serve(pipeline, options.pop("image"), **options)
    return 0


def add_cache(verbs: Any) -> None:
    """Register ``talkhead cache info`` and ``talkhead cache fetch``."""
    what = "say what a cache holds: people, emotions, levels, hours, failures; or bring it from a URL"
    verb = add_verb(verbs, "cache", run_cache, what)
    actions = verb.add_subparsers(metavar="ACTION", required=True)
    info = add_verb(
        actions,
        "info",
        run_cache,
        "people x emotions x levels, hours, frame rates, and why clips failed",
        "  talkhead cache info cache\n"
        "  talkhead cache info cache --sheet faces.png --html cache.html\n"
        "  talkhead cache info cache --json",
    )
    info.add_argument("cache", metavar="CACHE", help="the folder that `preprocess` wrote; it is only read")
    info.add_argument("--sheet", metavar="PNG", help="write faces with their landmarks, of up to 48 clips")
    info.add_argument("--html", metavar="FILE", help="write a page of it all, with every person's faces")
    info.add_argument("--json", action="store_true", help="print everything as JSON instead of tables")
    fetch = add_verb(
        actions,
        "fetch",
        run_fetch,
        "bring a cache from a URL to a folder, which training reads",
        "  talkhead cache fetch s3://bucket/cache --output /scratch/cache\n"
        "Stopped and started again, it brings what is missing.",
    )
    fetch.add_argument("url", metavar="URL", help="where `preprocess --output URL` wrote it")
    fetch.add_argument("--output", required=True, help="the folder")


def run_fetch(args: argparse.Namespace) -> int:
    """Fetch, and say how many clips there are."""
    from talkhead.scale.url_cache import fetch_cache

    print(f"{args.output}: {fetch_cache(args.url, args.output)} clips")
    return 0


def run_cache(args: argparse.Namespace) -> int:
    """Show it, and write what was asked for."""
    import json
    from pathlib import Path

    from talkhead.inventory.cache_info import cache_info
    from talkhead.inventory.info_page import print_info, write_info_page, write_sheet
    from talkhead.media.files import check_writable

    for path in filter(None, (args.sheet, args.html)):
        check_writable(path)
    info = cache_info(args.cache)
    if args.json:
        print(json.dumps(info.as_json(), indent=1, ensure_ascii=False))
    else:
        print_info(info)
    if args.sheet:
        write_sheet(args.cache, Path(args.sheet))
    if args.html:
        write_info_page(args.cache, info, Path(args.html))
    return 0


def add_app(verbs: Any) -> None:
    """Register ``talkhead app``."""
    verb = add_verb(
        verbs,
        "app",
        run_app,
        "the pipeline as a page in a browser",
        "  talkhead app                                   then open the address that it prints\n"
        "  talkhead app --speaker speakers/anna --port 8080\n"
        "  talkhead app --speakers speakers/anna speakers/ben     the page lets you choose",
    )
    add_speaker(verb)
    verb.add_argument(
        "--speakers", nargs="+", default=[], metavar="SPEAKER", help="further ones, to be chosen from in the page"
    )
    verb.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0: any (%(default)s)")
    verb.add_argument("--port", type=port, help="(7860, or the next free one)")
    add_names(verb)
    verb.add_argument("--share", action="store_true", help="ask gradio for a public address: anybody can use it")
    verb.add_argument("--longest", type=float, default=120.0, metavar="S", help="seconds of sound taken (%(default)s)")
    verb.add_argument("--largest", type=file_size, default="64mb", metavar="SIZE", help="of an upload (%(default)s)")
    verb.add_argument("--detector", choices=DETECTORS, help="what finds faces (the speaker's)")


def run_app(args: argparse.Namespace) -> int:
    """Serve the page until interrupted."""
    from talkhead.app.page import make_page, run_page
    from talkhead.pipeline import TalkingHeadPipeline

    options = arguments_of(args)
    device = options.pop("device")
    names = dict.fromkeys([options.pop("speaker"), *options.pop("speakers")])  # each once, in order
    speakers = {name: TalkingHeadPipeline.from_pretrained(name, device=device) for name in names}
    page = make_page(speakers, longest=options.pop("longest"), detector=options.pop("detector"))
    run_page(page, **options)
    return 0


def add_export_graphs(verbs: Any) -> None:
    """Register ``talkhead export-graphs``."""
    verb = add_verb(
        verbs,
        "export-graphs",
        run_export_graphs,
        "write a speaker's networks as ONNX files or torch.export programs, to run them elsewhere",
        "  talkhead export-graphs --output graphs\n"
        "  talkhead export-graphs --speaker speakers/anna --form torch --parts landmark --output anna_graphs\n"
        "graphs.json in the folder names what each takes and gives; docs/graphs.md teaches how to run them.",
    )
    verb.add_argument(
        "--speaker", default="bundled", help="`bundled`, a folder made by `export`, or a hub id (%(default)s)"
    )
    verb.add_argument("--output", required=True, help="the folder to make")
    verb.add_argument("--form", choices=["onnx", "torch"], default="onnx", help="(%(default)s)")
    verb.add_argument(
        "--parts",
        nargs="+",
        choices=["landmark", "emotion", "renderer"],
        default=["landmark", "emotion", "renderer"],
        help="which networks (all)",
    )
    verb.add_argument(
        "--seconds", type=float, default=6.0, help="sound that the landmark net's graph hears at once (%(default)s)"
    )


def run_export_graphs(args: argparse.Namespace) -> int:
    """Write the graphs."""
    from talkhead.speaker.graphs import export_graphs

    options = arguments_of(args)
    print(export_graphs(options.pop("speaker"), options.pop("output"), **options))
    return 0


def add_push(verbs: Any) -> None:
    """Register ``talkhead push``."""
    verb = add_verb(
        verbs,
        "push",
        run_push,
        "bring a speaker to the Hugging Face hub, with its model card and nothing else",
        "  talkhead push speakers/anna anna/speaker --dry-run     the files that would be sent\n"
        "  talkhead push speakers/anna anna/speaker --private\n"
        "Then, anywhere: talkhead generate --speaker anna/speaker ...   or anna/speaker@REVISION",
    )
    verb.add_argument("speaker", metavar="SPEAKER", help="a folder made by `export`")
    verb.add_argument("name", metavar="USER/NAME", help="where to; made if it does not exist")
    verb.add_argument("--private", action="store_true", help="where it is made: visible to its owner alone")
    verb.add_argument("--revision", help="a branch; made if it does not exist (the main one)")
    verb.add_argument("--message", default="", help="of the commit")
    verb.add_argument("--dry-run", action="store_true", help="only list the files")


def run_push(args: argparse.Namespace) -> int:
    """Push, and print where it can be seen."""
    from talkhead.speaker.hub import push

    options = arguments_of(args)
    print(push(options.pop("speaker"), options.pop("name"), **options))
    return 0


def add_adapt(verbs: Any) -> None:
    """Register ``talkhead adapt``."""
    verb = add_verb(
        verbs,
        "adapt",
        run_adapt,
        "make a speaker of a person from clips of that person, and a report on how good it is",
        "  talkhead adapt clips --output speakers/anna                15 s and more of one person speaking\n"
        "  talkhead adapt talk.mp4 --output speakers/anna --minutes 30\n"
        "  talkhead demo --speaker speakers/anna --output hello.mp4\n"
        "Stopped (Ctrl-C, SIGTERM, kill) and started again with the same arguments, it goes on where it was. What it "
        "makes\non the way lies beside OUTPUT, in OUTPUT.work, which may be deleted afterwards.",
    )
    verb.add_argument("clips", metavar="CLIPS", help="a folder of videos of one person with sound, or one video")
    verb.add_argument("--output", required=True, help="the speaker's folder to make")
    verb.add_argument(
        "--base", default="bundled", help="the speaker to start from, as --speaker elsewhere (%(default)s)"
    )
    length = verb.add_mutually_exclusive_group()
    length.add_argument(
        "--minutes",
        type=float,
        help="time of the training alone (10): preprocessing before it and judging after it are not counted. "
        "The first steps are timed, and the learning rate falls over as many as there is room for",
    )
    length.add_argument("--steps", type=int, help="steps of the renderer in place of --minutes: alike on every machine")
    verb.add_argument("--seed", type=seed, default=0, help="of the training and of what is held out (%(default)s)")
    verb.add_argument("--detector", choices=DETECTORS, help="what finds the face (the base's)")
    verb.add_argument("--face", type=face, default="largest", help="largest, center or an index (%(default)s)")
    verb.add_argument(
        "--size",
        type=int,
        help="px of what is learnt and painted: with the bundled base 128 (left out) or 256, for large faces, slower",
    )
    verb.add_argument("--sync", metavar="FILE", help="checkpoint of `talkhead fit --config sync`, to judge synchrony")
    verb.add_argument("--workers", type=int, default=2, help="processes that find faces (%(default)s)")
    add_device(verb)


def run_adapt(args: argparse.Namespace) -> int:
    """Adapt, and say how to use what was made."""
    from talkhead.adapting.adapt import adapt

    options = arguments_of(args)
    if options["minutes"] is None and options["steps"] is None:
        options["minutes"] = 10.0
    made = adapt(options.pop("clips"), options.pop("output"), **options, isolate=True)
    print(f"try: talkhead demo --speaker {shlex.quote(str(made))} --output hello.mp4")
    return 0


def add_doctor(verbs: Any) -> None:
    """Register ``talkhead doctor``."""
    verb = add_verb(
        verbs,
        "doctor",
        run_doctor,
        "say what is broken on this machine and how to mend it",
        "  talkhead doctor\n"
        "  talkhead doctor --fix      deletes the CUDA libraries of torchaudio where torch is a CPU build",
    )
    verb.add_argument("--fix", action="store_true", help="mend what can be mended without installing anything")


def run_doctor(args: argparse.Namespace) -> int:
    """Examine this machine."""
    from talkhead.doctor import doctor

    return doctor(fix=args.fix)


USES: tuple[Callable[[Any], None], ...] = (
    add_app,
    add_serve,
    add_dub,
    add_adapt,
    add_cache,
    add_export_graphs,
    add_push,
    add_doctor,
)
"""What `talkhead.cli` lists beside its own verbs."""


def port(text: str) -> int:
    """Parse ``--port``: 0 (any free one) to 65535."""
    try:
        if 0 <= (number := int(text)) <= 65535:
            return number
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"expected a whole number from 0 to 65535; got {text!r}")


def file_size(text: str) -> str:
    """Check ``--largest``: a whole number and its unit, before speakers are loaded."""
    if re.fullmatch(r"0*[1-9]\d* ?(kb|mb|gb)", text.lower()):
        return text
    raise argparse.ArgumentTypeError(f"expected a whole number of kb, mb or gb, such as 64mb; got {text!r}")
