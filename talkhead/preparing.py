"""The command line's verbs that make caches: preprocess recordings, merge caches."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from talkhead.cli import DETECTORS, add_device, add_engine, arguments_of, engine_of, face, frame_rate
from talkhead.parsing import add_verb


def add_preprocess(verbs: Any) -> None:
    """Register ``talkhead preprocess``."""
    verb = add_verb(
        verbs,
        "preprocess",
        run_preprocess,
        "turn a folder of recordings into a cache of face crops, landmarks and sound",
        "  talkhead preprocess --layout folder --input clips --output cache --workers 4\n"
        "  talkhead preprocess --layout mead --input MEAD --output cache --identity M030\n"
        "  talkhead preprocess --layout emodb --input emodb --output cache_speech\n"
        "  talkhead preprocess --verify --output cache\n"
        "  talkhead preprocess --layout folder --input clips --output cache_3 --shard 3/8\n"
        "  talkhead preprocess --layout folder --input clips --output cache --engine ray --address auto\n"
        "  talkhead preprocess --layout folder --input clips --output s3://bucket/cache\n"
        "Killed and started again with the same arguments, it goes on where it stopped.",
    )
    verb.add_argument(
        "--layout",
        choices=["mead", "ravdess", "emodb", "crema-d", "folder", "stills"],
        help="how INPUT is arranged",
    )
    verb.add_argument("--input", help="folder with the recordings; it is only read")
    verb.add_argument("--output", required=True, help="folder of the cache, or a URL that fsspec knows")
    verb.add_argument("--verify", action="store_true", help="only hold the clips in OUTPUT to their checksums")
    verb.add_argument("--fps", type=frame_rate, help="bring every video to this rate (default: each keeps its own)")
    verb.add_argument("--size", type=int, default=128, help="height and width of the face crop in px (%(default)s)")
    verb.add_argument(
        "--store", default="raw", choices=["raw", "jpeg"], help="keep frames as they are, or as JPEG (%(default)s)"
    )
    verb.add_argument("--quality", type=int, default=95, help="of jpeg, 1 to 95 (%(default)s)")
    verb.add_argument("--scale", type=float, default=1.5, help="side of the crop relative to the face (%(default)s)")
    verb.add_argument("--detector", default="auto", choices=DETECTORS, help="(%(default)s)")
    add_engine(verb)
    verb.add_argument("--identity", help="take only this person; in a `folder`: the name of the person in it")
    verb.add_argument("--emotion", help="take only this emotion; in a `folder`: the emotion of what is in it")
    verb.add_argument("--view", default="front", help="camera of the mead layout, or all (%(default)s)")
    verb.add_argument(
        "--missing",
        default="interpolate",
        choices=["error", "interpolate", "skip"],
        help="frames without a face: fail the clip, fill gaps up to --max-gap, or leave the clip out (%(default)s)",
    )
    verb.add_argument("--max-gap", type=int, default=5, help="longest gap to fill, in frames (%(default)s)")
    verb.add_argument(
        "--face", type=face, default="largest", help="which face: largest, center or an index (%(default)s)"
    )
    verb.add_argument("--segment-seconds", type=float, default=10.0, help="cut longer videos into pieces (%(default)s)")
    verb.add_argument(
        "--shard",
        type=shard,
        metavar="I/N",
        help="take the I-th of N parts, I from 1 to N, into an OUTPUT of its own; `talkhead merge` joins the parts",
    )
    add_device(verb)


def shard(text: str) -> tuple[int, int]:
    """Parse ``--shard``: 3/8, the third of eight parts."""
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise argparse.ArgumentTypeError(f"expected I/N with I from 1 to N, such as 3/8; got {text!r}")
    return int(index), int(count)


def run_preprocess(args: argparse.Namespace) -> int:
    """Preprocess, and fail when nothing succeeded; or check a cache, and fail when a clip is damaged."""
    from talkhead.data.manifest import damaged_clips
    from talkhead.data.preprocess import preprocess
    from talkhead.media.files import is_url
    from talkhead.scale.url_cache import preprocess_to_url

    options = arguments_of(args)
    if options.pop("verify"):
        damaged = damaged_clips(options["output"])
        print("\n".join(f"{name}: {fault}" for name, fault in damaged) or "every clip is as it was written")
        return 1 if damaged else 0
    if missing := [f"--{name}" for name in ("layout", "input") if options[name] is None]:
        raise ValueError(f"preprocess needs {' and '.join(missing)}; see talkhead preprocess --help")
    spread = engine_of(options, "recordings")
    if is_url(options["output"]):
        summary = preprocess_to_url(url=options.pop("output"), **options, **spread, isolate=True)
    else:
        summary = preprocess(**options, **spread, isolate=True)
    # A shard may have got no recording at all.
    return 0 if summary.ok or (options["shard"] is not None and not summary.failed) else 1


def add_merge(verbs: Any) -> None:
    """Register ``talkhead merge``."""
    verb = add_verb(
        verbs,
        "merge",
        run_merge,
        "put several caches into one: people of several datasets, or the parts of several machines",
        "  talkhead merge cache_s1 cache_others cache_stills --output cache\n"
        "  talkhead merge cache_1 cache_2 cache_3 --output cache      the three shards of one run",
    )
    verb.add_argument("caches", nargs="+", metavar="CACHE", help="folders that `preprocess` wrote; they are only read")
    verb.add_argument("--output", required=True, help="the cache to make")


def run_merge(args: argparse.Namespace) -> int:
    """Merge, and say how many clips there are."""
    from talkhead.inventory.merge import merge_caches

    print(f"{args.output}: {merge_caches(args.caches, args.output)} clips")
    return 0


CACHES: tuple[Callable[[Any], None], ...] = (add_preprocess, add_merge)
"""What `talkhead.cli` lists beside its own verbs."""
