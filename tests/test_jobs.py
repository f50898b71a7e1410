"""Many videos in one run: bad lines among good ones, and runs that are stopped, killed and started again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import POINTS, speech, tiny_pipeline, tiny_portrait

from talkhead.cli import main
from talkhead.data.manifest import json_lines
from talkhead.media.read import exact_fps, probe, write_audio, write_image
from talkhead.pipeline import TalkingHeadPipeline
from talkhead.pipeline.motion import LandmarkSequence
from talkhead.scale.jobs import KINDS, RESULTS, read_jobs
from talkhead.scale.results import read_results
from talkhead.scale.videos import Tally, generate_jobs

ROOT = Path(__file__).resolve().parents[1]
BAD = [
    ('{"image": "face.png", "audio": "a.wav"', "no JSON"),
    ('{"image": "face.png", "audio": "a.wav", "emotoin": "happy"}', "unknown key 'emotoin'; did you mean 'emotion'?"),
    ('{"image": "face.png", "audio": "a.wav", "seed": "7"}', "key 'seed' must be a whole number; got \"7\""),
    ('{"image": "face.png", "audio": "a.wav", "seed": true}', "key 'seed' must be a whole number; got true"),
    ('{"image": "face.png", "audio": "a.wav", "seed": 1, "seed": 2}', "key 'seed' stands there twice"),
    (
        '{"image": "face.png", "audio": "a.wav", "steps": 1, "num_inference_steps": 4}',
        "'num_inference_steps' stands there",
    ),
    ('{"image": "face.png", "audio": "a.wav", "fps": "1e400"}', "key 'fps' must be such as 25, 29.97 or '30000/1001'"),
    ('{"image": "face.png", "audio": "a.wav", "device": "cpu"}', "key 'device' holds for the whole run"),
    ('{"audio": "a.wav"}', "key 'image' is missing"),
    ('{"image": "face.png"}', "key 'audio' is missing"),
    ('{"image": "face.png", "audio": "a.wav", "output": "../x.mp4"}', "key 'output' must lie in the output folder"),
    ('{"image": "face.png", "audio": "a.wav", "output": "/x.mp4"}', "key 'output' must lie in the output folder"),
    ('{"image": "face.png", "audio": "a.wav", "output": "x.avi"}', "key 'output' must end in one of .mp4"),
    ('{"image": "face.png", "audio": "a.wav", "reference_landmarks": [[1, 2]]}', "must be 68 pairs of numbers"),
    ('["face.png"]', "expected an object"),
    (r'{"image": "fa\u0000ce.png", "audio": "a.wav"}', "key 'image' has a null character"),
    (r'{"image": "fa\ud800ce.png", "audio": "a.wav"}', "half a character"),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny speaker, a portrait and two sounds."""
    home = tmp_path_factory.mktemp("home")
    tiny_pipeline().save_pretrained(home / "speaker")
    write_image(home / "face.png", tiny_portrait())
    write_audio(home / "a.wav", speech(0.4))
    write_audio(home / "b.wav", speech(0.8))
    return home


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Other processes, which may have one thread, make videos that are compared with ours."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def job(**more: Any) -> dict[str, Any]:
    return {"image": "face.png", "audio": "a.wav", "reference_landmarks": POINTS.tolist(), **more}


def write_jobs(path: Path, *jobs: dict[str, Any] | str) -> Path:
    path.write_text("\n".join(j if isinstance(j, str) else json.dumps(j) for j in jobs) + "\n")
    return path


def run(jobs: Path, output: Path, **options: Any) -> Tally:
    return generate_jobs(jobs, output, speaker=str(jobs.parent / "speaker"), progress=False, **options)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_bad_line_is_one_sentence_and_stops_no_other(home: Path, tmp_path: Path) -> None:
    jobs = read_jobs(write_jobs(home / "bad.jsonl", *(line for line, _ in BAD)), {"speaker": "x"})
    for number, (found, (_, words)) in enumerate(zip(jobs, BAD, strict=True), 1):
        assert found.fault.startswith(f"line {number}: ") and words in found.fault, found.fault


def test_every_option_of_the_pipeline_can_be_said_in_a_line() -> None:
    import inspect

    stream = inspect.signature(TalkingHeadPipeline.stream).parameters
    given = set(stream) - {"self", "sample_rate"}  # the rate of sounds that are no files
    assert set(KINDS) == given | {"output", "speaker", "preset"}


def test_outputs_never_share_a_name(home: Path) -> None:
    plain, asked = job(), job(output="face-a.mp4")
    jobs = read_jobs(write_jobs(home / "n.jsonl", plain, plain, asked, job(output="FACE-A.mp4"), plain), {})
    assert [j.output for j in jobs] == ["face-a-2.mp4", "face-a-3.mp4", "face-a.mp4", "FACE-A.mp4", "face-a-4.mp4"]
    assert [bool(j.fault) for j in jobs] == [False, False, False, True, False]
    assert jobs[3].fault == "line 4: key 'output' names 'FACE-A.mp4', which is line 3's; give another name"


def test_good_and_bad_together(home: Path, tmp_path: Path) -> None:
    """As the command line runs them: in a process of their own; nobody's files but ours are in the folder."""
    lines = [
        job(output="one/x.mp4", emotion={"happy": 0.7, "sad": 0.3}, seed=3),
        job(audio="missing.wav"),
        BAD[1][0],
        job(audio="b.wav", fps="30000/1001", steps=1),
        job(output="p/%03d.png", mouth=0.5),
        job(emotion="hapy"),
    ]
    jobs = write_jobs(home / "mixed.jsonl", *lines)
    out = tmp_path / "videos"
    words = ["--jobs", str(jobs), "--output", str(out), "--speaker", str(home / "speaker"), "--device", "cpu"]
    assert main(["generate", *words]) == 0
    made = files(out)
    pictures = [f"p/{n:03d}.png" for n in range(1, 11)]
    assert list(made) == ["face-b.mp4", "one/x.mp4", *pictures, "results.jsonl"]
    assert str(probe(out / "face-b.mp4").fps) == "30000/1001"
    results = [json.loads(line) for line in made["results.jsonl"].splitlines()]
    assert [r["line"] for r in results] == [1, 2, 3, 4, 5, 6]
    assert [r["status"] for r in results] == ["ok", "failed", "failed", "ok", "ok", "failed"]
    assert "missing.wav" in results[1]["reason"] and str(home) not in made["results.jsonl"].decode()
    assert results[2]["reason"].startswith("line 3: unknown key 'emotoin'")
    assert "hapy" in results[5]["reason"]
    # The same video as one call makes.
    alone = tmp_path / "alone.mp4"
    pipe = TalkingHeadPipeline.from_pretrained(home / "speaker", device="cpu")
    pipe.generate_file(
        home / "face.png", home / "a.wav", alone, emotion={"happy": 0.7, "sad": 0.3}, seed=3, reference_landmarks=POINTS
    )
    assert alone.read_bytes() == made["one/x.mp4"]


def test_what_one_call_warns_of_is_a_remark(home: Path, tmp_path: Path) -> None:
    """Of each video, also where several are made side by side."""
    LandmarkSequence(POINTS.repeat(10, 1, 1), Fraction(25), (61, 72)).save(home / "still.npz")
    words = {"landmarks": "still.npz", "emotion": "happy"}
    jobs = write_jobs(home / "remarks.jsonl", job(**words), job(**words), job(landmarks="still.npz"))
    assert run(jobs, tmp_path / "videos", at_once=3).ok == 3
    reasons = [result["reason"] for result in read_results(tmp_path / "videos")]
    assert [reason[:23] for reason in reasons] == ["emotion changes nothing", "emotion changes nothing", ""]


def test_what_is_unchanged_is_passed_over(home: Path, tmp_path: Path) -> None:
    write_audio(home / "c.wav", speech(0.4))
    jobs = write_jobs(
        home / "again.jsonl", job(output="1.mp4"), job(output="2.mp4", audio="c.wav"), job(output="3.mp4")
    )
    assert run(jobs, tmp_path) == Tally(3, 0, [])
    first = files(tmp_path)
    assert run(jobs, tmp_path) == Tally(3, 3, []) and files(tmp_path) == first
    write_audio(home / "c.wav", speech(0.5))  # another sound
    (tmp_path / "3.mp4").write_bytes(b"damaged")
    assert run(jobs, tmp_path) == Tally(3, 1, [])
    assert files(tmp_path)["3.mp4"] == first["3.mp4"] and files(tmp_path)["2.mp4"] != first["2.mp4"]
    assert run(jobs, tmp_path, seed=5) == Tally(3, 0, [])  # an option for all
    # A line that is gone leaves its video; another line first moves the numbers, and nothing is made again.
    write_jobs(jobs, job(output="3.mp4"), job(output="1.mp4"))
    assert run(jobs, tmp_path, seed=5) == Tally(2, 2, [])
    results = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [(r["output"], r["line"]) for r in results] == [("3.mp4", 1), ("1.mp4", 2), ("2.mp4", None)]


def test_a_speaker_made_anew_in_the_same_process_makes_other_videos(home: Path, tmp_path: Path) -> None:
    jobs = write_jobs(home / "anew.jsonl", job(output="1.mp4"))
    pipe, speaker = tiny_pipeline(), tmp_path / "speaker"
    videos = []
    for _ in range(2):
        shutil.rmtree(speaker, ignore_errors=True)
        pipe.save_pretrained(speaker)
        assert generate_jobs(jobs, tmp_path / "out", speaker=str(speaker), progress=False) == Tally(1, 0, [])
        videos.append((tmp_path / "out/1.mp4").read_bytes())
        with torch.no_grad():
            for weights in pipe.renderer.parameters():
                weights.mul_(-1)
    assert videos[0] != videos[1]


def test_the_run_s_own_files_are_named_as_seen_from_here(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A further picture that changes is a changed job, however it was named; the command line's `speaker` is a word."""
    monkeypatch.chdir(home)
    shutil.copy("face.png", "further.png")
    points = POINTS.tolist()
    jobs = write_jobs(tmp_path / "jobs.jsonl", {"output": "1.mp4", "reference_landmarks": points})
    common = {"image": "face.png", "audio": "a.wav", "speaker": "speaker", "progress": False, "detector": None}
    with pytest.raises(ValueError, match="plot_emotion is no option that many videos can share"):
        generate_jobs(jobs, tmp_path, **common, plot_emotion="p.png")
    seen = []

    def read(path: Path, defaults: dict[str, Any]) -> list[Any]:
        seen.extend(read_jobs(path, defaults))
        raise KeyboardInterrupt

    monkeypatch.setattr("talkhead.scale.videos.read_jobs", read)
    for further in ("further.png", Path("further.png"), ["further.png"]):
        with pytest.raises(KeyboardInterrupt):
            generate_jobs(jobs, tmp_path, **common, references=further)
    words = ["--jobs", str(jobs), "--output", str(tmp_path), "--image", "face.png"]
    assert main(["generate", *words, "--audio", "a.wav", "--reference", "speaker"]) == 130
    assert [j.options["references"] for j in seen] == [[str(home / "further.png")]] * 3 + ["speaker"]
    assert {j.options["image"] for j in seen} == {str(home / "face.png")}


def test_a_rate_is_the_same_however_it_is_written(home: Path) -> None:
    rates = [29.97, "29.97", "30000/1001", "59.94", 25, "25", "12.5"]
    jobs = read_jobs(write_jobs(home / "rates.jsonl", *[job(fps=rate) for rate in rates]), {})
    ntsc = Fraction(30_000, 1001)
    assert [exact_fps(j.options["fps"]) for j in jobs] == [ntsc, ntsc, ntsc, 2 * ntsc, 25, 25, Fraction(25, 2)]
    assert [j.options["fps"] for j in jobs[1:4]] == [ntsc, ntsc, 2 * ntsc]


def test_the_run_s_own_options_may_be_what_python_has(home: Path, tmp_path: Path) -> None:
    """Arrays and tensors are what a line would say; what a line cannot say is refused in one sentence."""
    said = write_jobs(tmp_path / "said.jsonl", job(emotion=torch.eye(8)[4].tolist(), fps="30000/1001", mouth=0.5))
    mean = write_jobs(tmp_path / "mean.jsonl", {"image": "face.png", "audio": "a.wav"})
    for path in (said, mean):
        for file in ("face.png", "a.wav"):
            shutil.copy(home / file, path.parent)
    options = {"emotion": torch.eye(8)[4], "fps": Fraction(30_000, 1001), "mouth": np.float64(0.5)}
    speaker = {"speaker": str(home / "speaker"), "progress": False}
    generate_jobs(said, tmp_path / "said", **speaker)
    generate_jobs(mean, tmp_path / "mean", **speaker, **options, reference_landmarks=POINTS)
    first, second = (read_results(tmp_path / name)[0] for name in ("said", "mean"))
    assert first["status"] == "ok" and (first["key"], first["sha256"]) == (second["key"], second["sha256"])
    for name, value in {"detector": object(), "references": [tiny_portrait()], "image": tiny_portrait()}.items():
        with pytest.raises(ValueError, match=f"{name}.* must (be text|name files); got"):
            generate_jobs(mean, tmp_path / "mean", **speaker, **{name: value})


def test_the_user_s_hidden_files_stay_in_the_folder_of_videos(home: Path, tmp_path: Path) -> None:
    jobs = write_jobs(home / "hidden.jsonl", job(output="1.mp4"))
    scrap, own = tmp_path / ".frames.7-0123456789ab.tmp", tmp_path / ".frames.original"
    for folder in (scrap, own, tmp_path / ".x.tmp"):
        folder.mkdir()
        (folder / "00001.png").touch()
    (tmp_path / ".notes.tmpl").touch()
    assert run(jobs, tmp_path) == Tally(1, 0, [])
    left = [".frames.original/00001.png", ".notes.tmpl", ".x.tmp/00001.png", "1.mp4", RESULTS]
    assert list(files(tmp_path)) == left and not scrap.exists()


def test_a_line_that_python_would_break_is_read_back(tmp_path: Path) -> None:
    entries = [{"output": "a\u2028b.mp4", "status": "ok", "key": "k", "sha256": "s"}]
    (tmp_path / RESULTS).write_bytes(json_lines(entries) + b'{"output": "torn')
    assert read_results(tmp_path) == entries


def test_no_video_takes_the_place_of_what_is_read(home: Path) -> None:
    sound = (home / "b.wav").rename(home / "b.mp4")
    before = sound.read_bytes()
    jobs = write_jobs(home / "over.jsonl", job(output="b.mp4"), job(audio="b.mp4", output="z.mp4"))
    tally = run(jobs, home)
    sound.rename(home / "b.wav")
    assert (tally.ok, len(tally.failed)) == (1, 1) and "which line 2 reads" in tally.failed[0][2]
    assert (home / "b.wav").read_bytes() == before


def test_no_row_of_pictures_takes_the_place_of_what_another_line_reads(home: Path) -> None:
    (home / "row").mkdir()
    shutil.copy(home / "face.png", home / "row/00077.png")
    (home / "far.png").symlink_to("row/00077.png")
    for image in ("row/00077.png", "far.png"):
        jobs = write_jobs(home / "row.jsonl", job(output="row/%05d.png"), job(image=image, output="y.mp4"))
        tally = run(jobs, home)
        assert tally.ok == 1 and "'row/%05d.png', which line 2 reads" in tally.failed[0][2]
    assert [p.name for p in (home / "row").iterdir()] == ["00077.png"]


def test_what_cannot_be_looked_up_is_its_line_s_fault_alone(home: Path, tmp_path: Path) -> None:
    """Names beyond what file systems allow, loops of links among what is read and where is written: one goes on."""
    long = 300 * "x"
    (home / "loop.png").symlink_to("loop.png")
    (tmp_path / "round").symlink_to("round")
    bad = [
        (job(output=f"{long}.mp4"), "key 'output'", "File name too long"),
        (job(output=f"{long}/%05d.png"), "key 'output'", "File name too long"),
        (job(output="round/%05d.png"), "key 'output'", "a loop of links"),
        (job(image=f"{long}.png"), "key 'image'", "File name too long"),
        (job(image="loop.png"), "key 'image'", "a loop of links"),
        (job(references=["face.png", "loop.png"]), "key 'references'", "a loop of links"),
        (job(speaker=long), "key 'speaker'", "File name too long"),
        (job(output="1.mp4/2.mp4"), "", "1.mp4"),  # the file of the line that goes on
    ]
    lines = write_jobs(home / "lookup.jsonl", job(output="1.mp4"), *(line for line, _, _ in bad))
    tally = run(lines, tmp_path)
    assert tally.ok == 1 and (tmp_path / "1.mp4").is_file()
    for number, (line, _, reason) in enumerate(tally.failed, 2):
        _, key, words = bad[number - 2]
        assert line == number and (not key or reason.startswith(f"line {number}: {key} ")) and words in reason, reason
        assert len(reason) < 150, "the name that is too long is not said"
    assert run(lines, tmp_path).passed == 1
    with pytest.raises(ValueError, match="key 'image' names what cannot be looked up"):
        run(lines, tmp_path, image=str(home / "loop.png"))


def test_names_made_of_long_names_fit_and_differ(home: Path) -> None:
    """Two Chinese names of 80 characters, 240 bytes, and the same up to the last character."""
    one, two = "\u6c49" * 80, "\u6c49" * 79 + "\u5b57"
    lines = [job(image=f"{one}.png", audio=f"{x}.wav") for x in (one, two, one)]
    names = [str(j.output) for j in read_jobs(write_jobs(home / "long.jsonl", *lines), {})]
    assert len(set(names)) == 3 and all(len(name.encode()) <= 255 for name in names)
    assert all(name.startswith("\u6c49" * 60) and name.endswith(".mp4") for name in names)
    swapped = read_jobs(write_jobs(home / "long.jsonl", lines[1], lines[0]), {})
    assert [str(j.output) for j in swapped] == [names[1], names[0]], "a name does not depend on the lines before"
    (home / names[0]).touch()  # as file systems see it
    (home / names[0]).unlink()


def test_a_run_without_speaker_or_jobs_is_refused(home: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no file"):
        generate_jobs(tmp_path / "none.jsonl", tmp_path)
    jobs = write_jobs(tmp_path / "jobs.jsonl", job())
    with pytest.raises(FileNotFoundError, match="nowhere"):
        generate_jobs(jobs, tmp_path / "out", speaker="nowhere")
    with pytest.raises(ValueError, match="has no line"):
        generate_jobs(write_jobs(jobs, "", ""), tmp_path / "out", speaker=str(home / "speaker"))


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGKILL, -9), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.storm)]
)
def test_stopped_and_started_again_it_is_the_same(home: Path, tmp_path: Path, sent: int, code: int) -> None:
    lines = [job(seed=n, steps=2, size=64) if n % 4 else job(seed=n, audio="missing.wav") for n in range(9)]
    jobs = write_jobs(home / "killed.jsonl", *lines)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert (tally := run(jobs, whole, device="cpu")).ok == 6 and len(tally.failed) == 3
    words = ["--jobs", str(jobs), "--output", str(broken), "--speaker", str(home / "speaker"), "--device", "cpu"]
    command = [sys.executable, "-m", "talkhead", "generate", *words]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    results = broken / "results.jsonl"
    deadline = time.monotonic() + 120
    while not results.exists() or results.read_bytes().count(b"\n") < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(sent)
    assert process.wait(60) == code
    left = files(broken)
    assert 2 <= left["results.jsonl"].count(b"\n") < 9
    if sent == signal.SIGTERM:
        assert not [name for name in left if ".tmp" in name]
    assert run(jobs, broken, device="cpu").passed >= 1
    assert files(broken) == files(whole)
