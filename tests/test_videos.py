"""The judge of any method's videos, under a detector that sees a bright square: matching, reconciling, ranking."""

import json
import math
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from talkhead import cli, metrics
from talkhead.evaluate.named_media import find_media, list_media, name_methods
from talkhead.evaluate.page import _closeness
from talkhead.evaluate.report import Report, Table
from talkhead.evaluate.video_scores import ALIVE, OUR_COLUMNS, STILL, TRUTH, alone
from talkhead.evaluate.videos import Take, judge, place_in
from talkhead.face.crop import Crop
from talkhead.nets.sync import SyncNet
from talkhead.tracking.detectors import Detection


class Beacon:
    """A detector for pictures of one bright square: 68 points about its middle, spread by its size."""

    name = "beacon"

    def __call__(self, frame: Tensor, face: str | int = "largest") -> Detection | None:
        bright = frame[0].float() > 128
        if not bright.any():
            return None
        y, x = bright.nonzero().float().unbind(1)
        middle, size = torch.stack([x.mean(), y.mean()]), bright.sum().sqrt()
        return Detection(middle + size * _POINTS, 1.0, (0.0, 0.0, 1.0, 1.0))


_POINTS = torch.rand(68, 2, generator=torch.Generator().manual_seed(0)) - 0.5
_POINTS[36:42] = torch.tensor([-0.3, -0.2])
_POINTS[42:48] = torch.tensor([0.3, -0.2])


def scene(frames: int = 16, late: int = 0, height: int = 48, width: int = 64, fps: float = 25.0) -> np.ndarray:
    """(T, H, W, 3): a square that sways and breathes."""
    video = np.full((frames, height, width, 3), 30, np.uint8)
    unit = height / 96
    for t in range(frames):
        at = 2 * math.pi * max(t * 25 / fps - late, 0) / 12
        x, y, r = (unit * v for v in (64 + 6 * math.sin(at), 48, 14 + 2 * math.sin(2 * at)))
        video[t, round(y - r) : round(y + r), round(x - r) : round(x + r)] = 220
    return video


def write(path: Path, video: np.ndarray, codec: str = "libx264", rate: Fraction = Fraction(25)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = (
            video.shape[2],
            video.shape[1],
            "yuv420p",
            4_000_000,
        )
        for picture in video:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    for name in ("a", "b"):
        write(root / "truth" / f"{name}.mp4", scene())
        write(root / "same" / f"{name}.mp4", scene(), "mpeg4")  # another encoder
        write(root / "late" / f"{name}.mp4", scene(late=4))
        write(root / "still" / f"{name}.mp4", scene(1).repeat(16, 0))
    large = scene(20, height=96, width=128, fps=29.97)
    write(root / "large" / "a.mp4", large, rate=Fraction(30000, 1001))
    (root / "large" / "b.mp4").write_bytes(b"no video")
    return root


@pytest.fixture(scope="module")
def report(folders, tmp_path_factory):
    methods = [folders / name for name in ("same", "late", "still", "large")]
    output = tmp_path_factory.mktemp("judged")
    return judge(methods, output, truth=folders / "truth", detector=Beacon(), sync=None, size=48, verbose=False), output


@pytest.fixture
def no_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the net that describes faces: half of a judgement's time, and none of what is asked."""
    monkeypatch.setattr("talkhead.evaluate.video_scores.can_describe_faces", lambda: False)


def test_every_measure_ranks_as_it_must(report) -> None:
    paper, ours = report[0].tables["paper"].rows, report[0].tables["ours"].rows
    assert paper["same"]["psnr"] > 30 > paper["late"]["psnr"] and paper["same"]["ssim"] > paper["late"]["ssim"]
    assert paper["same"]["f_ld"] < 0.5 < paper["late"]["f_ld"]
    assert paper["same"]["f_ld_frobenius"] < paper["late"]["f_ld_frobenius"]
    assert paper["late"]["lag"] == 4 and paper["same"]["lag"] == 0
    assert ours["still"]["shift"] == pytest.approx(0, abs=1e-3)
    assert ours["still"]["shift_closeness"] < 0.05 and ours["same"]["shift_closeness"] > 0.95
    assert ours[STILL]["lips"] == pytest.approx(0, abs=1e-4) and ours[TRUTH]["lips"] > 1


def test_what_was_reconciled_is_said_and_failures_are_counted(report) -> None:
    found, _ = report
    rows = found.tables["paper"].rows
    assert (rows["large"]["clips"], rows["large"]["failed"]) == (1, 1) and rows["same"]["failed"] == 0
    notes = " ".join(found.clips["a"]["notes"]["large"])
    assert "29.970 frames per second brought to 25.000" in notes and "cut at the same place, scaled" in notes
    assert "large: failed" in found.protocol["reconciled"] and "left out" not in found.protocol
    assert rows["large"]["psnr"] > rows["late"]["psnr"]  # the same scene, twice as large


def test_the_page_holds_all_it_shows(report) -> None:
    _, output = report
    page = (output / "videos.html").read_text()
    assert page.count("data:image/png") == 2 and page.count("data:image/jpeg") >= 8
    assert "http" not in page.replace("http-equiv", "") and "<td>same</td>" in page
    assert "<td>lip dynamics</td>" in page, "the wide table lies on its side"
    saved = json.loads((output / "videos.json").read_text())
    assert saved["clips"]["a"]["scores"]["same"]["psnr"] > 30
    assert "As in the paper's Table 1" in (output / "videos.md").read_text()


@pytest.mark.usefixtures("no_identity")
def test_without_a_truth_the_unpaired_measures_remain(folders, tmp_path) -> None:
    found = judge({"mine": folders / "same"}, tmp_path, detector=Beacon(), sync=None, size=48, verbose=False)
    assert list(found.tables) == ["ours"] and set(found.tables["ours"].rows) == {STILL, "mine"}
    assert found.tables["ours"].rows["mine"]["lips"] > 1


def test_bars_are_drawn_of_what_the_still_picture_has_not() -> None:
    rows = {STILL: {"lips": 0.0, "blink_seconds": math.nan}, "a": {"lips": 4.0, "blink_seconds": 0.1}}
    rows["b"] = {"lips": 2.0, "blink_seconds": 0.2}
    figure = _closeness(Report({"ours": Table("", OUR_COLUMNS, rows)}, {}), ["a", "b"])
    heights = [[bar.get_height() for bar in bars] for bars in figure.axes[0].containers]
    lips, blinks = list(ALIVE).index("lips"), list(ALIVE).index("blink_seconds")
    assert [[row[lips], row[blinks]] for row in heights] == [[0, 0], [1, 0.5], [0.5, 1]]


@pytest.mark.usefixtures("no_identity")
def test_a_method_that_always_fails_has_a_row(folders, tmp_path) -> None:
    for name in ("a", "b"):
        write(tmp_path / "black" / f"{name}.mp4", np.zeros((16, 48, 64, 3), np.uint8))
    methods, options = {"mine": folders / "same", "b|w": tmp_path / "black"}, {"detector": Beacon(), "size": 48}
    found = judge(methods, tmp_path / "out", truth=folders / "truth", verbose=False, **options)
    for table in found.tables.values():
        assert (table.rows["b|w"]["clips"], table.rows["b|w"]["failed"]) == (0, 2)
    lines = (tmp_path / "out" / "videos.md").read_text().splitlines()
    row = next(line for line in lines if line.startswith(r"| b\|w |"))
    assert row.replace(r"\|", "").count("|") == lines[0].count("|") and row.endswith("| 0 | 2 |")
    assert "<td>b|w</td>" in (tmp_path / "out" / "videos.html").read_text()


@pytest.mark.parametrize("name", ["_ours", r"cost $\bad$", "$5", "a_b"])
def test_names_are_drawn_as_they_are(name: str) -> None:
    figure = _closeness(
        Report({"ours": Table("", OUR_COLUMNS, {STILL: {"lips": 0.0}, name: {"lips": 4.0}})}, {}), [name]
    )
    figure.draw_without_rendering()
    drawn = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert [text.replace("\\$", "$").strip() for text in drawn] == [STILL, name]


@pytest.mark.usefixtures("no_identity")
def test_a_sound_that_cannot_be_read_is_a_failure_of_that_clip_alone(folders, tmp_path) -> None:
    (tmp_path / "speech").mkdir()
    (tmp_path / "speech" / "b.wav").write_bytes(b"no sound")
    methods, options = {"mine": folders / "same"}, {"detector": Beacon(), "size": 48, "verbose": False}
    found = judge(methods, tmp_path, truth=folders / "truth", audio=tmp_path / "speech", sync=None, **options)
    rows = found.tables["paper"].rows
    assert (rows["mine"]["clips"], rows["mine"]["failed"]) == (1, 1)
    assert found.clips["b"]["failed"]["mine"].startswith("the speech: ")
    assert found.clips["a"]["notes"]["mine"] == ["no speech of its name: judged by the truth's"]


@pytest.mark.usefixtures("no_identity")
def test_a_video_without_a_truth_is_counted_as_left_out(folders, tmp_path) -> None:
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth" / "a.mp4").write_bytes((folders / "truth" / "a.mp4").read_bytes())
    methods, options = {"mine": folders / "same", "other": folders / "late"}, {"detector": Beacon(), "size": 48}
    found = judge(methods, tmp_path, truth=tmp_path / "truth", verbose=False, **options)
    assert list(found.clips) == ["a"] and found.protocol["left out"].endswith("name: 1 of mine, 1 of other")


def take(frames: int, seconds: float) -> Take:
    """A face whose mouth opens in the video's second half, with a loud sound of so many seconds."""
    landmarks = (40 + 20 * _POINTS).repeat(frames, 1, 1)
    landmarks[frames // 2 :, 65:68, 1] += 3 * torch.rand(frames - frames // 2, 1)
    pictures = torch.zeros(frames, 3, 16, 16, dtype=torch.uint8)
    return Take(pictures, landmarks, 1.0, torch.randn(round(seconds * 16_000)).clamp(-1, 1), 25.0)


def test_a_sound_that_ends_before_the_picture_is_followed_by_silence() -> None:
    short, whole = take(50, 1.0), take(50, 2.0)
    opening = metrics.mouth_opening(short.landmarks)[25:]
    eyes = (short.landmarks[0, 42:48].mean(0) - short.landmarks[0, 36:42].mean(0)).norm()
    fidgeting = (opening - opening.mean()).square().mean().sqrt() / eyes  # in the silent half
    assert alone(short, None)["silent"] == pytest.approx(fidgeting.item(), rel=1e-4)
    assert math.isnan(alone(whole, None)["silent"])


@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.3, 0.51, 0.52, 2.0])
def test_a_sound_too_short_for_the_judge_of_synchrony_leaves_its_columns_empty(seconds: float) -> None:
    scores = alone(take(50, seconds), SyncNet(width=16, dimensions=8))
    assert ("sync_match" in scores) == (seconds > 0.5) and ("silent" in scores) == (seconds > 0)


@pytest.mark.usefixtures("no_identity")
def test_of_two_lengths_the_common_part_counts(tmp_path: Path) -> None:
    """Copies of a truth that rests in its second half: one ends before that, one goes on without a face."""
    video = np.concatenate([scene(24), scene(1).repeat(24, 0)])
    dark = np.full_like(video, 30)
    for name, frames in (("truth", video), ("short", video[:24]), ("long", np.concatenate([video, dark]))):
        write(tmp_path / name / "a.mp4", frames)
    (tmp_path / "truth" / "b.mp4").write_bytes(b"no video")
    write(tmp_path / "short" / "b.mp4", video)
    methods = [tmp_path / "short", tmp_path / "long"]
    options = {"truth": tmp_path / "truth", "detector": Beacon(), "size": 48, "verbose": False}
    rows = judge(methods, tmp_path / "out", **options).tables["ours"].rows
    for key in ("lips", "brows", "shift"):  # coded anew, and smoothed up to another end
        assert rows["short"][f"{key}_closeness"] == pytest.approx(1, abs=0.1), key
    assert rows["short"]["lips"] > 1.2 * rows[TRUTH]["lips"] and "lips_of_truth" not in rows["short"]
    assert rows["long"]["found"] == 1.0
    assert [rows[row]["failed"] for row in (TRUTH, "short", "long")] == [1, 1, 1]


def test_a_size_below_the_windows_of_ssim_is_refused(folders, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"^size must be at least 11 px.*; got 10$"):
        judge([folders / "same"], tmp_path, truth=folders / "truth", detector=Beacon(), size=10)


def test_another_shape_is_cut_around_its_own_face() -> None:
    notes: list[str] = []
    crop = Crop(10, 20, 40)
    assert place_in((crop, (96, 128)), (96, 128), notes) == crop and not notes
    assert place_in((crop, (96, 128)), (192, 256), notes) == Crop(20, 40, 80)
    assert place_in((crop, (96, 128)), (128, 128), notes) is None and "another shape" in notes[-1]


def touched(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_nested_folders_are_matched_by_the_place_in_them(tmp_path: Path) -> None:
    """MEAD's tree: sentences are numbered anew in each folder."""
    tree = touched(
        tmp_path / "truth", *(f"{mood}/level_1/{n}.mp4" for mood in ("happy", "sad") for n in ("001", "002"))
    )
    touched(tree, ".hidden/001.mp4", "happy/.001.mp4", "happy/level_1/001.txt", "@eaDir/001.mp4")
    touched(tree, "ours/happy/level_1/001.webm", "ours/v1.2.mp4")  # a method's folder within the truth's
    ours, other = tree / "ours", touched(tmp_path / "other", "happy/level_1/001.MOV", "sad/level_1/001.avi")
    speech = touched(tmp_path / "speech", "happy/level_1/001.wav", "sad/level_1/001.opus")
    files, truths, sounds = find_media({"ours": ours, "other": other}, tree, speech)
    names = {f"{mood}/level_1/{n}" for mood in ("happy", "sad") for n in ("001", "002")}
    assert truths == {name: tree / f"{name}.mp4" for name in names}
    assert files["ours"] == {"happy/level_1/001": ours / "happy/level_1/001.webm", "v1.2": ours / "v1.2.mp4"}
    assert files["other"].keys() == sounds.keys() == {"happy/level_1/001", "sad/level_1/001"}


def test_names_are_those_that_people_see(tmp_path: Path, monkeypatch) -> None:
    """One letter in two spellings, a recording's sound beside it, a folder called by where one stands."""
    truth, mine = touched(tmp_path / "truth", "\u00e9.mp4", "\u00e9.wav"), touched(tmp_path / "m", "e\u0301.mp4")
    files, truths, sounds = find_media({"m": mine}, truth, truth)
    assert files["m"].keys() == truths.keys() == sounds.keys() == {"\u00e9"}
    assert sounds["\u00e9"].suffix == ".wav" and truths["\u00e9"].suffix == ".mp4"
    monkeypatch.chdir(mine)
    assert list(name_methods(["."])) == ["m"]


@pytest.mark.usefixtures("no_identity")
def test_without_a_truth_all_are_judged_at_the_first_ones_rate(tmp_path: Path) -> None:
    for name, fps in (("f25", 25), ("f50", 50)):
        write(tmp_path / name / "a.mp4", scene(fps, fps=fps), rate=Fraction(fps))
    options = {"detector": Beacon(), "size": 48, "verbose": False}
    found = judge([tmp_path / "f25", tmp_path / "f50"], tmp_path / "out", **options)
    rows = found.tables["ours"].rows
    assert rows["f50"]["brows"] == pytest.approx(rows["f25"]["brows"], rel=0.05)
    assert "f50: 50.000 frames per second brought to 25.000, the first's" in found.protocol["reconciled"]


@pytest.mark.usefixtures("no_identity")
def test_the_first_clips_are_those_that_a_method_has_and_their_first_frames_can_be_enough(folders, tmp_path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "b.mp4").write_bytes((folders / "late" / "b.mp4").read_bytes())
    options = {"detector": Beacon(), "size": 48, "verbose": False, "truth": folders / "truth"}
    found = judge([tmp_path / "mine"], tmp_path / "out", limit=1, num_frames=4, **options)
    assert list(found.clips) == ["b"] and found.protocol["reconciled"] == "nothing"
    assert found.tables["paper"].rows["mine"]["lag"] != 4  # no four frames tell of it


@pytest.mark.usefixtures("no_identity")
def test_what_is_shown_of_a_video_does_not_keep_all_of_it(folders, tmp_path, monkeypatch) -> None:
    kept: dict[str, dict[str, Tensor]] = {}
    monkeypatch.setattr("talkhead.evaluate.videos.write_page", lambda path, report, methods, shown: kept.update(shown))
    monkeypatch.setattr("talkhead.evaluate.videos.MOST", 1)
    options = {"detector": Beacon(), "size": 48, "verbose": False, "truth": folders / "truth"}
    judge([folders / "same"], tmp_path, **options)
    assert list(kept) == ["a"]
    for picture in kept["a"].values():
        assert picture.untyped_storage().nbytes() == picture.numel() == 3 * 48 * 48


def test_files_of_one_name_and_methods_named_otherwise_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds '1\.avi' and '1\.mp4', which would be one clip 'a/1'; keep one"):
        list_media("videos", touched(tmp_path / "twice", "a/1.mp4", "a/1.avi", "b/1.mp4"), {".mp4", ".avi"})
    flat, deep = touched(tmp_path / "flat", "1.mp4"), touched(tmp_path / "deep", "happy/1.mp4")
    with pytest.raises(ValueError, match="none of 'mine' is named like a true one, such as '1' beside 'happy/1'"):
        find_media({"mine": flat}, deep, None)


def test_a_nested_tree_is_judged_as_a_flat_one(folders, report, tmp_path) -> None:
    for folder, name in (("truth", "a"), ("truth", "b"), ("late", "a"), ("late", "b")):
        to = tmp_path / folder / name / "level_1" / "001.mp4"
        to.parent.mkdir(parents=True)
        to.write_bytes((folders / folder / f"{name}.mp4").read_bytes())
    options = {"detector": Beacon(), "sync": None, "size": 48, "verbose": False}
    found = judge([tmp_path / "late"], tmp_path / "out", truth=tmp_path / "truth", **options)
    assert list(found.clips) == ["a/level_1/001", "b/level_1/001"]
    flat = report[0].tables["paper"].rows["late"]
    assert found.tables["paper"].rows["late"] == pytest.approx(flat, nan_ok=True)
    assert "a/level_1/001" in (tmp_path / "out" / "videos.html").read_text()


def test_folders_and_names_are_checked(folders, tmp_path, capsys) -> None:
    with pytest.raises(ValueError, match="given twice"):
        name_methods(["x/one", "y/one"])
    with pytest.raises(ValueError, match="row of the tables"):
        name_methods({TRUTH: "x"})
    for limit in (0, -1):
        with pytest.raises(ValueError, match="limit must be at least 1"):
            judge([folders / "same"], tmp_path, limit=limit)
    with pytest.raises(FileNotFoundError, match="truth: no folder"):
        list_media("truth", tmp_path / "none", {".mp4"})
    with pytest.raises(ValueError, match="audio: .* holds no file"):
        list_media("audio", tmp_path, {".mp4"})
    output = ["--output", str(tmp_path)]
    assert cli.main(["evaluate", *output]) == 2 and "--root" in capsys.readouterr().err
    assert (
        cli.main(["evaluate", "--root", "x", "--videos", "y", *output]) == 2 and "not both" in capsys.readouterr().err
    )
    assert cli.main(["evaluate", "--root", "x", "--truth", "y", *output]) == 2
    assert "belong to --videos" in capsys.readouterr().err
    for words in (["--identities", "M030"], ["--steps", "4"], ["--seed", "1"], ["--part", "val"]):
        assert cli.main(["evaluate", "--videos", "x", *words, *output]) == 2
        assert f"{words[0]} belongs to --root" in capsys.readouterr().err
    with pytest.raises(ValueError, match="num_frames must be at least 2"):
        judge([folders / "same"], tmp_path, num_frames=1)
    assert cli.main(["evaluate", "--videos", "a", "b", "--name", "A", *output]) == 2
    assert "one name for each of 2" in capsys.readouterr().err
    with pytest.raises(ValueError, match="none could be judged"):
        (tmp_path / "bad").mkdir()
        (tmp_path / "bad" / "a.mp4").write_bytes(b"no video")
        judge([tmp_path / "bad"], tmp_path / "out", detector=Beacon(), sync=None, size=48, verbose=False)
