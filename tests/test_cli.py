"""The command line as a person types it."""

import argparse
import inspect
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from talkhead import __version__, training
from talkhead.cli import frame_rate, main
from talkhead.media.write import exact_fps

ROOT = Path(__file__).resolve().parents[1]
SLOW = 3  # a busy machine with two cores may take this many times what an idle one takes
VERBS = [
    "demo", "generate", "app", "serve", "dub", "adapt", "cache info", "cache fetch", "export-graphs", "push", "doctor",
    "preprocess", "merge", "evaluate", "ablate", "export",
]  # fmt: skip


def test_help_answers_at_once_without_torch() -> None:
    code = (
        "import sys; from talkhead.cli import main\ntry: main(['--help'])\nfinally: assert 'torch' not in sys.modules"
    )
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1.0 * SLOW
    for word in [*(verb.split()[0] for verb in VERBS), *training.TRAINING, "first steps:"]:
        assert word in done.stdout


def test_the_module_is_the_program() -> None:
    done = subprocess.run([sys.executable, "-m", "talkhead", "--version"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"talkhead {__version__}\n")


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_teaches(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*verb.split(), "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert f"usage: talkhead {verb}" in out
    assert re.search(rf"^  talkhead {verb}\b", out, re.MULTILINE), "no example"


@pytest.mark.parametrize("verb", training.TRAINING)
def test_each_verb_of_lightning_teaches(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    assert "  talkhead fit --config landmark --data.root cache " in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["dance"], [], ["generate", "--image", "a.png"], ["preprocess", "--layout", "x"]]
)
def test_wrong_use_exits_with_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("talkhead: error: ") and said.count("\n") == 1, "no screen of usage before it"
    assert "--help`" in said


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        ("generate --image a --adio b --output c", "--audio"),
        ("generate --image a --audio b --emotion-strenght=1 --output c", "--emotion-strength"),
        ("adapt clips --ouput anna", "--output"),
        ("cache info cache --jsn", "--json"),
    ],
)
def test_a_mistyped_option_is_named_and_meant(arguments: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments.split())
    assert f"did you mean {meant} by " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "start"),
    [
        ("generate --image a --audio b --output c.mp4 --speaker nowhere", "--speaker: "),
        ("adapt b.mp4 --output anna --steps 1 --base nowhere", "--base: "),
        ("push nowhere anna/speaker --dry-run", "SPEAKER: "),
        ("cache info nowhere", "CACHE: "),
        ("ablate --root nowhere --output b", "--root: "),
        ("preprocess --verify --output nowhere", "--output: "),
        ("demo --steps 0 --output a.mp4", "--steps must "),
    ],
)
def test_errors_name_what_was_typed(
    arguments: str, start: str, sentence: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b.mp4").touch()
    assert sentence(*arguments.split()).startswith(f"talkhead: error: {start}")


def test_what_a_network_of_a_configuration_refuses_is_said_alone(
    sentence: Callable[..., str], tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    size = "--model.init_args.renderer.init_args.size"
    said = sentence("fit", "--config", "video", "--data.root", str(tiny_cache), size, "100")
    assert said == "talkhead: error: size must be a multiple of 32 px; got 100: take 96 or 128"


def test_errors_are_one_sentence(sentence: Callable[..., str], tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere")
    out = str(tmp_path / "out.mp4")
    assert "nowhere" in sentence(
        "preprocess", "--layout", "folder", "--input", nowhere, "--output", str(tmp_path / "c")
    )
    assert "nowhere" in sentence("generate", "--speaker", nowhere, "--image", "a", "--audio", "b", "--output", out)
    assert "nowhere" in sentence("evaluate", "--model", nowhere, "--root", nowhere, "--output", str(tmp_path / "e"))
    assert "nowhere" in sentence("export", "--landmark", nowhere, "--video", nowhere, "--output", str(tmp_path / "s"))
    assert list(tmp_path.iterdir()) == []


def test_a_torchaudio_for_cuda_names_its_mend(sentence: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(arguments: list[str]) -> int:
        raise OSError("Could not load this library: site-packages/torchaudio/lib/_torchaudio.abi3.so")

    monkeypatch.setattr("talkhead.cli.train", broken)
    assert sentence("fit").endswith("_torchaudio.abi3.so; run `talkhead doctor --fix`")


def test_a_traceback_can_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TALKHEAD_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError):
        main(["generate", "--speaker", str(tmp_path / "no"), "--image", "a", "--audio", "b", "--output", "c.mp4"])


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(fix: bool) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("talkhead.doctor.doctor", interrupted)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == "talkhead: interrupted\n"


CALLS = [
    ("demo", "talkhead.pipeline.demo", [], {"output": "outputs/demo.mp4", "pipeline": "bundled", "seed": 0}),
    (
        "demo",
        "talkhead.pipeline.demo",
        ["--emotion", "happy=0.7,sad=0.3", "--steps", "2"],
        {"emotion": {"happy": 0.7, "sad": 0.3}, "num_inference_steps": 2},
    ),
    (
        "preprocess",
        "talkhead.data.preprocess.preprocess",
        ["--layout", "mead", "--input", "in", "--output", "out", "--face", "2", "--max-gap", "3"],
        {"layout": "mead", "input": "in", "output": "out", "face": 2, "max_gap": 3, "size": 128},
    ),
    (
        "evaluate",
        "talkhead.evaluate.evaluate",
        ["--root", "cache", "--output", "out", "--detector", "none", "--limit", "3"],
        {"model": "bundled", "output": "out", "detector": None, "limit": 3, "num_inference_steps": None},
    ),
    (
        "ablate",
        "talkhead.evaluate.ablate",
        ["--root", "cache", "--output", "out", "--start-timesteps", "100", "300", "--steps", "4"],
        {"start_timesteps": [100, 300], "num_inference_steps": [4]},
    ),
    (
        "export",
        "talkhead.pipeline.export_pipeline",
        ["--landmark", "l", "--video", "v", "--output", "o", "--results", __file__],
        {"landmark": "l", "emotion": None, "video": "v", "output": "o", "results": Path(__file__).read_text()},
    ),
]


@pytest.mark.parametrize(("verb", "home", "arguments", "expected"), CALLS)
def test_a_verb_calls_its_home(
    verb: str, home: str, arguments: list[str], expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, name = home.rsplit(".", 1)
    real = inspect.signature(getattr(__import__(module, fromlist=[name]), name))
    calls = []

    def record(**options: Any) -> Any:
        real.bind(**options)
        calls.append(options)
        return type("Summary", (), {"ok": 0})()

    monkeypatch.setattr(home, record)
    # Nothing succeeded: for `preprocess` that is a failure.
    assert main([verb, *arguments]) == (1 if verb == "preprocess" else 0)
    assert {key: calls[0][key] for key in expected} == expected


def test_generate_hands_everything_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from talkhead.pipeline import TalkingHeadPipeline

    whole = inspect.signature(TalkingHeadPipeline.stream)
    calls: dict[str, Any] = {}

    class Pipeline:
        def generate_file(
            self, image: str, audio: str, output: str, preset: str, plot_emotion: str | None, **options: Any
        ) -> Path:
            whole.bind(self, image, audio, **options)
            calls.update(options, image=image, audio=audio, preset=preset, plot_emotion=plot_emotion)
            return Path(output)

    monkeypatch.setattr(TalkingHeadPipeline, "from_pretrained", lambda name, **place: calls.update(place) or Pipeline())
    arguments = [
        "--image",
        "a.png",
        "--audio",
        "b.wav",
        "--output",
        "c.mp4",
        "--fps",
        "30000/1001",
        "--emotion",
        "happy",
    ]
    assert main(["generate", *arguments, "--face", "center", "--mouth", "1.2"]) == 0
    assert capsys.readouterr().out == "c.mp4\n"
    assert calls["fps"].denominator == 1001
    assert (calls["emotion"], calls["face"], calls["mouth"]) == ("happy", "center", 1.2)
    assert (calls["device"], calls["compile"], calls["preset"]) == ("auto", False, "medium")
    assert calls["plot_emotion"] is None
    fast = ["--device", "cuda:1", "--compile", "--preset", "veryfast", "--windows-per-call", "3"]
    fast += ["--plot-emotion", "c.png"]
    assert main(["generate", *arguments, *fast]) == 0
    assert (calls["device"], calls["compile"], calls["preset"]) == ("cuda:1", True, "veryfast")
    assert calls["windows_per_call"] == 3 and calls["plot_emotion"] == "c.png"
    assert main(["generate", *arguments, "--reference", "speaker"]) == 0 and calls["references"] == "speaker"
    assert main(["generate", *arguments, "--guidance-scale", "2"]) == 0 and calls["guidance_scale"] == 2
    with pytest.warns(FutureWarning, match="--emotion-scale is called --guidance-scale"):
        assert main(["generate", *arguments, "--emotion-scale", "3"]) == 0
    assert calls["guidance_scale"] == 3


@pytest.mark.parametrize(
    ("option", "value"), [
        ("--emotion", "happy=much"), ("--face", "left"), ("--fps", "fast"), ("--fps", "1/0"), ("--fps", "-25"),
        ("--fps", "nan"), ("--seed", "x"), ("--seed", "99999999999999999999"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_read_is_named(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["generate", "--image", "a", "--audio", "b", "--output", "c", option, value])
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert option in err
    assert value in err


@pytest.mark.parametrize("verb", ["app", "serve"])
@pytest.mark.parametrize("port", ["-3", "99999", "http"])
def test_a_port_that_cannot_be_is_named(verb: str, port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([verb, f"--port={port}"])
    assert stop.value.code == 2 and f"--port: expected a whole number from 0 to 65535; got '{port}'" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("size", ["3xx", "1.5gb", "0mb", "64", "-3mb"])
def test_a_size_that_cannot_be_is_named(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["app", f"--largest={size}"])
    assert stop.value.code == 2 and f"such as 64mb; got '{size}'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "rate"),
    [("25", "25"), ("29.97", "30000/1001"), ("23.976", "24000/1001"), ("12.5", "25/2"), ("2997e-2", "30000/1001")],
)
def test_frame_rates_mean_the_same_typed_and_in_python(text: str, rate: str) -> None:
    assert frame_rate(text) == exact_fps(float(text)) == Fraction(rate)


def test_a_rate_of_a_thousand_million_digits_is_refused_at_once() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="above 0 and below 1000"):
        frame_rate("1e999999999")


def test_a_reader_who_has_seen_enough_is_no_error(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`talkhead fit --help | head -1`: the reader goes after a line."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", encoding="utf-8") as pipe:
        monkeypatch.setattr("sys.stdout", pipe)
        assert main(["fit", "--help"]) == 141
    assert capfd.readouterr().err == ""
