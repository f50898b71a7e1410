"""The command line: it parses, calls, and says what went wrong in one sentence. Each verb's work lives in its own file.

Everything heavy is imported by the verb that needs it, so that ``talkhead --help`` answers at once.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

from talkhead import __version__
from talkhead.one_line import one_line
from talkhead.parsing import Parser, add_verb
from talkhead.training import TERMINATED, TRAINING, train

DETECTORS = ("auto", "face-alignment", "dlib")
EPILOG = """\
first steps:
  talkhead demo                                      the bundled speaker speaks: writes outputs/demo.mp4
  talkhead generate --image me.png --audio hello.wav --output hello.mp4
  talkhead doctor                                    what is broken on this machine and how to mend it

a speaker of your own:
  talkhead adapt clips --output speakers/anna        from clips of a person, in minutes

training one from nothing:
  talkhead preprocess --layout folder --input clips --output cache --workers 4
  talkhead fit --config landmark --data.root cache   and emotion, and video
  talkhead export --help                             puts the three together

`talkhead VERB --help` teaches each verb. TALKHEAD_TRACEBACK=1 shows where an error comes from.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments after the program's name; None: those of this process.

    Returns:
        The exit code: 0 done, 1 done but nothing succeeded, 2 wrong use or an error, 130 interrupted by Ctrl-C, 143 by
        SIGTERM, 141 where what is printed has no reader any more.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    verb: Parser | None = None
    try:
        if arguments and arguments[0] in TRAINING:
            code = train(arguments)
        else:
            verb = (args := make_parser().parse_args(arguments)).parser
            with terminable():
                code = args.run(args)
        print(end="", flush=True)  # what cannot be printed is found here, not when Python ends
        return code
    except _Terminated:
        print("talkhead: terminated", file=sys.stderr)
        return TERMINATED
    except KeyboardInterrupt:
        print("talkhead: interrupted", file=sys.stderr)
        return 130
    except (ValueError, ImportError, OSError, RuntimeError) as error:
        if isinstance(error, BrokenPipeError) and _unread():
            return 128 + 13  # as shells give SIGPIPE
        if os.environ.get("TALKHEAD_TRACEBACK"):
            raise
        said = one_line(error)
        if "torchaudio" in said and "library" in said:  # its wheel was built for CUDA, and torch was not
            said += "; run `talkhead doctor --fix`"
        print(f"talkhead: error: {verb.in_its_words(said) if verb else said}", file=sys.stderr)
        return 2


def _unread() -> bool:
    """Return whether standard output's reader is gone; what is still to be printed goes nowhere then."""
    watch = select.poll()
    watch.register(sys.stdout, 0)
    if gone := any(event & select.POLLERR for _, event in watch.poll(0)):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return gone


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a verb as Ctrl-C does: nothing half-written is left."""


@contextmanager
def terminable() -> Iterator[None]:
    """Turn SIGTERM into an exception, unless somebody else listens to it."""
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL

    def stop(number: int, frame: Any) -> None:
        raise _Terminated

    if ours:
        signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def make_parser() -> Parser:
    """Return the parser of all verbs."""
    what = "One portrait and one speech recording in, a talking-head video out."
    parser = Parser(prog="talkhead", description=what, epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"talkhead {__version__}")
    from talkhead.measuring import add_ablate, add_evaluate
    from talkhead.preparing import CACHES
    from talkhead.verbs import USES

    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for add in (add_demo, add_generate, *USES, *CACHES, add_evaluate, add_ablate, add_export):
        add(verbs)
    for verb, what in TRAINING.items():  # listed here, parsed by Lightning: see train
        verbs.add_parser(verb, help=what)
    return parser


def add_demo(verbs: Any) -> None:
    """Register ``talkhead demo``."""
    examples = "  talkhead demo\n  talkhead demo --speaker speakers/anna --output hello.mp4 --emotion happy"
    verb = add_verb(verbs, "demo", run_demo, "let the bundled speaker speak: the whole chain, end to end", examples)
    verb.add_argument("--output", default="outputs/demo.mp4", help="the video (%(default)s)")
    add_rendering(verb)


def run_demo(args: argparse.Namespace) -> int:
    """Render the bundled speaker, or another one with a portrait and a recording of its own."""
    from talkhead.pipeline import demo

    options = arguments_of(args)
    print(demo(pipeline=options.pop("speaker"), **options))
    return 0


def add_generate(verbs: Any) -> None:
    """Register ``talkhead generate``."""
    verb = add_verb(
        verbs,
        "generate",
        run_generate,
        "make a talking-head video from a portrait and a recording",
        "  talkhead generate --image me.png --audio hello.wav --output hello.mp4\n"
        "  talkhead generate --image me.jpg --audio talk.mp4 --output talk.mp4 --emotion happy --frame full\n"
        "  talkhead generate --image anna.png --audio hello.wav --output hello.mp4 --speaker speakers/anna --seed 7\n"
        "many videos, the networks loaded once; killed and started again, it goes on where it stopped:\n"
        "  talkhead generate --jobs jobs.jsonl --output videos\n"
        "with lines such as these; files are named as seen from jobs.jsonl, other options here hold for all lines:\n"
        '  {"image": "anna.png", "audio": "hello.wav", "output": "hello.mp4", "emotion": "happy"}\n'
        '  {"image": "ben.jpg", "audio": "talk.mp3", "seed": 7, "frame": "full"}\n'
        "the same on a cluster, whose nodes see the files under the same names:\n"
        "  talkhead generate --jobs jobs.jsonl --output videos --engine ray --address auto --gpus-per-worker 0.25",
    )
    verb.add_argument("--image", help="the portrait: any picture with a face in it")
    verb.add_argument("--audio", help="the speech: any sound or video file; may be left out with --landmarks")
    verb.add_argument(
        "--output",
        required=True,
        help="the video: .mp4, .mov, .webm or .gif, or frames/%%05d.png, the folder being there; with --jobs a folder",
    )
    verb.add_argument("--jobs", metavar="FILE", help="one video for each line, a JSON object of these options")
    verb.add_argument(
        "--at-once", type=int, help="with --jobs: jobs whose windows share network calls (8 on a GPU, else 1)"
    )
    add_engine(verb, "with --jobs: ")
    verb.add_argument("--landmarks", help="an .npz of landmarks to paint instead of those heard in the speech")
    verb.add_argument(
        "--fps", type=frame_rate, help="frames per second, such as 25, 29.97 or 30000/1001 (the speaker's)"
    )
    verb.add_argument(
        "--frame", choices=["crop", "full"], default="crop", help="the face, or all of IMAGE (%(default)s)"
    )
    verb.add_argument("--size", type=int, metavar="PX", help="side of the crop (the portrait's own, at most 512)")
    verb.add_argument(
        "--transparent", action="store_true", help="keep IMAGE's opacity; for .webm and pictures as OUTPUT"
    )
    verb.add_argument("--detector", choices=DETECTORS, help="what finds the face (the speaker's)")
    verb.add_argument(
        "--face", type=face, default="largest", help="which face: largest, center or an index (%(default)s)"
    )
    add_references(verb, "those that the speaker brings, where IMAGE is the speaker")
    for part in ("mouth", "pose", "brow", "blink", "idle"):
        verb.add_argument(
            f"--{part}", type=float, default=1.0, metavar="GAIN", help="gain of this motion (%(default)s)"
        )
    verb.add_argument(
        "--teeth", type=float, default=1.0, metavar="SHARE", help="how much of an opened mouth's inside is drawn "
        "where no picture of the person shows it; 0 to 1 (%(default)s)",
    )  # fmt: skip
    add_rendering(verb)


def add_engine(verb: argparse.ArgumentParser, when: str = "") -> None:
    """Add where work is spread: over this machine's processes, or over a Ray cluster."""
    verb.add_argument("--workers", type=int, help=f"{when}processes (1; with ray: as many as there are cores)")
    verb.add_argument("--engine", choices=["ray"], help=f"{when}spread the work over a Ray cluster (extra `ray`)")
    verb.add_argument("--address", help="of the cluster: auto, or 10.0.0.1:6379; left out: this machine alone")
    verb.add_argument("--gpus-per-worker", type=float, metavar="SHARE", help="of a card, such as 0.25 (0: none)")


ENGINE = ("workers", "engine", "address", "gpus_per_worker")


def engine_of(options: dict[str, Any], things: str) -> dict[str, Any]:
    """Take what `add_engine` added out of a verb's options; return what is given of ``workers`` and ``engine``."""
    workers, engine, address, share = (options.pop(name) for name in ENGINE)
    if engine is None:
        if unused := [f"--{n}" for n, v in (("address", address), ("gpus-per-worker", share)) if v is not None]:
            raise ValueError(f"{' and '.join(unused)}: only a cluster has that; add --engine ray, or leave it out")
        return {} if workers is None else {"workers": workers}
    from talkhead.scale.ray_engine import RayEngine

    return {"engine": RayEngine(address, workers, share or 0.0, things)}


def add_rendering(verb: argparse.ArgumentParser) -> None:
    """Add what `demo` and `generate` share."""
    verb.add_argument(
        "--speaker", default="bundled", help="`bundled`, a folder made by `export`, or a hub id (%(default)s)"
    )
    verb.add_argument(
        "--emotion",
        type=emotion,
        help="what the face shows: happy, or happy=0.7,sad=0.3, or over time '0 neutral, 2.5 happy, 6 sad'; "
        "left out: what is clearly heard in the speech. Brows, eyes and mouth show it on any portrait",
    )
    verb.add_argument(
        "--emotion-strength",
        type=float,
        default=1.0,
        metavar="0..2",
        help="of the expression: 0 none, 1 of a person who means it (%(default)s)",
    )
    verb.add_argument(
        "--plot-emotion", metavar="FILE", help="draw the emotion heard or asked for, and shown, over time: .png, .svg"
    )
    verb.add_argument("--steps", dest="num_inference_steps", type=int, help="network calls per frame (the speaker's)")
    verb.add_argument("--start-timestep", type=int, help="begin at this diffusion step, not at pure mask noise")
    verb.add_argument("--guidance-scale", type=float, default=1.0, help="above 1 exaggerates the emotion (%(default)s)")
    verb.add_argument("--emotion-scale", type=float, default=argparse.SUPPRESS, help=argparse.SUPPRESS)  # its old name
    verb.add_argument("--seed", type=seed, default=0, help="the same seed makes the same video (%(default)s)")
    verb.add_argument("--windows-per-call", type=int, metavar="N", help="painted at once (8 on a GPU, else 1 a thread)")
    verb.add_argument("--compile", action="store_true", help="compile the renderer: slow to start, then faster")
    verb.add_argument("--preset", default="medium", help="H.264's speed, such as veryfast (%(default)s)")
    add_device(verb)


def add_device(verb: argparse.ArgumentParser) -> None:
    """Add ``--device``."""
    verb.add_argument("--device", default="auto", help="auto: the GPU where there is one; cpu, cuda, cuda:1 ... (auto)")


def run_generate(args: argparse.Namespace) -> int:
    """Write the video as it is made; with ``--jobs`` many, and fail when nothing succeeded."""
    options = arguments_of(args)
    jobs = options.pop("jobs")
    if jobs is not None:
        from talkhead.scale.videos import generate_jobs

        spread = engine_of(options, "videos")
        return 0 if generate_jobs(jobs, **options, **spread, isolate=True).ok else 1
    if options["image"] is None:
        raise ValueError("generate needs --image, or --jobs; see talkhead generate --help")
    of_jobs = (*ENGINE, "at_once")
    if unused := [f"--{name.replace('_', '-')}" for name in of_jobs if options.pop(name) is not None]:
        raise ValueError(f"{' and '.join(unused)} can only be given together with --jobs; leave it out")
    from talkhead.pipeline import TalkingHeadPipeline

    place = {name: options.pop(name) for name in ("device", "compile")}
    pipeline = TalkingHeadPipeline.from_pretrained(options.pop("speaker"), **place)
    print(pipeline.generate_file(options.pop("image"), options.pop("audio"), options.pop("output"), **options))
    return 0


def add_export(verbs: Any) -> None:
    """Register ``talkhead export``."""
    verb = add_verb(
        verbs,
        "export",
        run_export,
        "put three trained modules together into a speaker's folder",
        "  talkhead export --landmark runs/landmark/checkpoints/last.ckpt --video runs/video/checkpoints/last.ckpt \\\n"
        "      --emotion bundled --head bundled --portrait anna.png --speech hello.wav --output anna\n"
        "`bundled` is the bundled speaker's part. Then: talkhead generate --speaker anna ...",
    )
    verb.add_argument("--landmark", required=True, help="checkpoint of LandmarkGenerator, or its net's folder")
    verb.add_argument(
        "--emotion", help="checkpoint of EmotionClassifier, or its net's folder; left out: `generate` must be told"
    )
    verb.add_argument("--head", help="checkpoint of HeadMotionGenerator, or its net's folder; left out: the head sways")
    verb.add_argument(
        "--video", required=True, help="checkpoint of VideoDiffusion, or a folder with renderer and scheduler"
    )
    verb.add_argument("--output", required=True, help="the folder to make")
    verb.add_argument("--portrait", help="the speaker's face, for `demo`")
    verb.add_argument("--speech", help="something to say, for `demo`")
    verb.add_argument(
        "--reference", dest="references", nargs="+", metavar="FILE", help="pictures, a video: more mouths"
    )
    verb.add_argument("--detector", choices=DETECTORS, help="finds PORTRAIT's landmarks (the checkpoints')")
    verb.add_argument("--fps", type=frame_rate, help="of the clips trained on (the checkpoints')")
    verb.add_argument("--crop-scale", type=float, help="as --scale of `preprocess` (the checkpoints')")
    verb.add_argument("--window", type=int, default=16, help="frames painted together (%(default)s)")
    verb.add_argument("--overlap", type=int, default=4, help="frames shared by neighbouring windows (%(default)s)")
    verb.add_argument(
        "--steps", dest="num_inference_steps", type=int, default=4, help="network calls per frame (%(default)s)"
    )
    for part in ("name", "data", "licence"):
        verb.add_argument(f"--{part}", default="", help="for the model card")
    verb.add_argument("--results", help="for the model card: a file, such as evaluation.md")


def run_export(args: argparse.Namespace) -> int:
    """Write the folder."""
    from talkhead.pipeline import export_pipeline

    options = arguments_of(args)
    options["results"] = Path(args.results).read_text(encoding="utf-8") if args.results else ""
    print(export_pipeline(**options))
    return 0


def add_references(verb: argparse.ArgumentParser, speaker: str) -> None:
    """Add ``--reference``; the help says what `speaker` means as one."""
    what = "further pictures or a video of the person: teeth and lips that IMAGE does not show; `speaker`: " + speaker
    verb.add_argument("--reference", dest="references", nargs="+", action="extend", metavar="FILE", help=what)


def arguments_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return a verb's own arguments by name."""
    options = {name: value for name, value in vars(args).items() if name not in ("run", "parser")}
    if options.get("references") == ["speaker"]:
        options["references"] = "speaker"
    if "emotion_scale" in options:
        from talkhead.renamed import warn_renamed

        warn_renamed("--emotion-scale", "--guidance-scale")
        options["guidance_scale"] = options.pop("emotion_scale")
    return options


def frame_rate(text: str) -> Fraction:
    """Parse ``--fps``, as in a line of jobs."""
    from talkhead.scale.jobs import rate_of

    try:
        return rate_of(text)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(
            f"expected frames per second above 0 and below 1000, such as 25, 29.97 or 30000/1001; got {text!r}"
        ) from None


def seed(text: str) -> int:
    """Parse ``--seed``: a whole number of 64 bits, as PyTorch's generators take them."""
    try:
        value = int(text)
    except ValueError:
        value = 2**63
    if not -(2**63) <= value < 2**63:
        raise argparse.ArgumentTypeError(f"expected a whole number from -2**63 to 2**63 - 1; got {text!r}")
    return value


def face(text: str) -> str | int:
    """Parse ``--face``: largest, center or an index."""
    if text in ("largest", "center"):
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected largest, center or an index; got {text!r}") from None


def emotion(text: str) -> str | dict[str, float]:
    """Parse ``--emotion``: a name, or a mixture ``happy=0.7,sad=0.3``."""
    if "=" not in text:
        return text
    parts = [part.partition("=") for part in text.split(",")]
    try:
        return {name.strip(): float(share) for name, _, share in parts}
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected a name, or shares such as happy=0.7,sad=0.3; got {text!r}"
        ) from None
