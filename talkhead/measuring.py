"""The command line's verbs that measure: evaluate and ablate."""

from __future__ import annotations

import argparse
from typing import Any

from talkhead.cli import DETECTORS, add_device, arguments_of, seed
from talkhead.parsing import add_verb


def add_evaluate(verbs: Any) -> None:
    """Register ``talkhead evaluate``."""
    verb = add_verb(
        verbs,
        "evaluate",
        run_evaluate,
        "measure a speaker on held-out clips, or any method's videos, beside rows that do nothing",
        "  talkhead evaluate --root cache --output results\n"
        "  talkhead evaluate --model speakers/anna --root cache --output results --split sentence\n"
        "  talkhead evaluate --model speakers/many --root cache --output results --unseen W009 M042\n"
        "  talkhead evaluate --videos wav2lip ours --truth recordings --output results\n"
        "With --root, killed and started again with the same arguments, it goes on where it stopped.",
    )
    add_measuring(verb, root_required=False)
    verb.add_argument("--steps", dest="num_inference_steps", type=int, help="network calls per frame (the speaker's)")
    verb.add_argument("--limit", type=int, help="take only the first clips")
    verb.add_argument("--num-frames", type=int, help="take only each clip's first frames")
    given = verb.add_argument_group(
        "any method's videos, in place of --root; files are matched by their place in the folder, and of the options "
        "above --output, --detector, --device, --limit and --num-frames belong to them, too"
    )
    given.add_argument("--videos", nargs="+", metavar="FOLDER", help="one folder of videos for each method")
    given.add_argument("--name", nargs="+", help="the methods' names, in the order of --videos (their folders')")
    given.add_argument("--truth", metavar="FOLDER", help="the true videos; left out: the measures that need none")
    given.add_argument("--audio", metavar="FOLDER", help="the speech to judge by (the truth's, else the video's own)")
    given.add_argument("--sync", metavar="FILE", help="checkpoint of `talkhead fit --config sync`, to judge synchrony")


_SPEAKERS_OWN = ("model", "part", "split", "identities", "unseen", "num_inference_steps", "seed")
"""What says nothing about videos that are there already."""


def run_evaluate(args: argparse.Namespace) -> int:
    """Write the tables of a speaker, or of videos."""
    options = arguments_of(args)
    videos, names, truth, audio = (options.pop(name) for name in ("videos", "name", "truth", "audio"))
    sync = options.pop("sync")
    if (videos is None) == (args.root is None):
        raise ValueError("give --root, a cache to measure a speaker on, or --videos, folders to judge; not both")
    if videos is None:
        if names or truth or audio or sync:
            raise ValueError("--name, --truth, --audio and --sync belong to --videos; give it, or leave them out")
        from talkhead.evaluate import evaluate

        evaluate(**measuring(argparse.Namespace(**options)))
        return 0
    if names is not None and len(names) != len(videos):
        raise ValueError(f"--name must give one name for each of {len(videos)} folders; got {len(names)}")
    from talkhead.evaluate.videos import judge

    if args.detector == "none":
        raise ValueError("--detector: videos are judged by their landmarks; choose another than none")
    strange = [name for name in _SPEAKERS_OWN if getattr(args, name) != args.parser.get_default(name)]
    if strange:
        flag = "--" + {"num_inference_steps": "steps"}.get(strange[0], strange[0])
        raise ValueError(f"{flag} belongs to --root, a speaker that is measured on a cache; leave it out with --videos")
    pairs = list(zip(names, videos, strict=True)) if names else videos
    common = {name: options[name] for name in ("output", "detector", "device", "limit", "num_frames")}
    judge(pairs, truth=truth, audio=audio, sync=sync, **common)
    return 0


def add_ablate(verbs: Any) -> None:
    """Register ``talkhead ablate``."""
    verb = add_verb(
        verbs,
        "ablate",
        run_ablate,
        "sweep the diffusion's timesteps, as in the paper's Table 2",
        "  talkhead ablate --model speakers/paper --root cache --output sweep --start-timesteps 100 200 300 500 999",
    )
    add_measuring(verb)
    verb.add_argument(
        "--start-timesteps", type=int, nargs="+", metavar="T", help="start at T (the paper's; of a bridge: none)"
    )
    verb.add_argument(
        "--steps",
        dest="num_inference_steps",
        type=int,
        nargs="+",
        metavar="N",
        help="N steps from the end (the paper's; of a bridge: 1 2 4 8 20)",
    )
    verb.add_argument("--limit", type=int, default=4, help="take only the first clips (%(default)s)")
    verb.add_argument("--num-frames", type=int, default=17, help="take only each clip's first frames (%(default)s)")


def run_ablate(args: argparse.Namespace) -> int:
    """Write the sweep."""
    from talkhead.evaluate import ablate

    ablate(**measuring(args))
    return 0


def add_measuring(verb: argparse.ArgumentParser, root_required: bool = True) -> None:
    """Add what `evaluate` and `ablate` share."""
    verb.add_argument(
        "--model", default="bundled", help="`bundled`, a folder made by `export`, or a hub id (%(default)s)"
    )
    verb.add_argument("--root", required=root_required, help="the cache that `preprocess` wrote")
    verb.add_argument("--output", required=True, help="folder for the results")
    verb.add_argument(
        "--part", default="test", choices=["train", "val", "test", "all"], help="which clips (%(default)s)"
    )
    verb.add_argument("--split", default="clip", choices=["clip", "sentence", "identity"], help="by what (%(default)s)")
    verb.add_argument("--identities", nargs="+", metavar="ID", help="these people alone (all)")
    verb.add_argument("--unseen", nargs="+", metavar="ID", help="people that training never saw: all theirs is test")
    verb.add_argument(
        "--detector", default="dlib", choices=[*DETECTORS, "none"], help="on painted frames (%(default)s)"
    )
    verb.add_argument("--seed", type=seed, default=0, help="of the mask noise (%(default)s)")
    add_device(verb)


def measuring(args: argparse.Namespace) -> dict[str, Any]:
    """Return what `evaluate` and `ablate` are called with."""
    from talkhead.data.datamodule import MEADDataModule

    options = arguments_of(args)
    people = {name: options.pop(name) for name in ("split", "identities", "unseen")}
    options["root"] = MEADDataModule(options["root"], **people)
    return options | {"detector": None if options["detector"] == "none" else options["detector"]}
