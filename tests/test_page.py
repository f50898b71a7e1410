"""What the page does with the files that come to it, without a browser; see test_app.py for those in one."""

import shutil
import time
import warnings
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browsing import GRADIOS_WARNINGS
from conftest import POINTS, tiny_pipeline
from PIL import Image
from test_bounds import streamed_flac, streamed_video

from talkhead.media.read import read_image, write_image
from talkhead.pipeline import TalkingHeadPipeline
from talkhead.pipeline.motion import LandmarkSequence

httpx = pytest.importorskip("httpx")
TestClient = pytest.importorskip("starlette.testclient").TestClient
gr = pytest.importorskip("gradio", reason="the page is an extra: pip install 'talkhead[ui]'")
pytestmark = GRADIOS_WARNINGS
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from talkhead.app.page import HEARD, _Maker, _whole_picture, make_page, run_page


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_page(tiny_pipeline(), longest=5.0, folder=tmp_path_factory.mktemp("served"))


def half_seen(path: Path) -> None:
    """Write red with an opaque left half and nothing at all at the right, which a viewer shows white."""
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:, :4] = (200, 30, 10, 255)
    Image.fromarray(pixels).save(path)


def sixteen_bits(path: Path) -> None:
    """Write greys of 16 bits: 257 times what an 8-bit screen shows."""
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 3 * 257).save(path)


def of_a_phone(path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(Image.new("RGB", (64, 64), (200, 30, 10))).save(path, quality=90)


@pytest.mark.parametrize(
    ("name", "write", "at", "shown"),
    [
        ("half.png", half_seen, (0, 7), (255, 255, 255)),
        ("half.png", half_seen, (0, 0), (200, 30, 10)),
        ("deep.png", sixteen_bits, (7, 7), (189, 189, 189)),
        ("phone.heic", of_a_phone, (32, 32), (200, 30, 10)),
    ],
)
def test_portraits_come_as_the_command_line_reads_them(
    page: Any, tmp_path: Path, name: str, write: Callable[[Path], None], at: tuple[int, int], shown: tuple[int, ...]
) -> None:
    write(tmp_path / name)
    fields = [b for b in page.blocks.values() if isinstance(b, gr.Image) and b.label == "Portrait"]
    assert len(fields) == 2
    for field in fields:
        payload = gr.data_classes.ImageData(path=str(tmp_path / name), orig_name=name)
        picture = read_image(field.preprocess(payload))
        assert torch.equal(picture, read_image(tmp_path / name))
        assert np.abs(picture[:, at[0], at[1]].numpy().astype(int) - shown).max() <= (3 if name == "phone.heic" else 0)


def test_a_length_that_no_header_says_is_found_out(tmp_path: Path) -> None:
    """Each of the three tabs takes no more than five seconds, nor does a further video of a person."""
    recording = streamed_flac(tmp_path / "s.flac", 6.0)
    maker = _Maker({"one": tiny_pipeline()}, 5.0, None, tmp_path)
    motion = tmp_path / "motion.npz"
    LandmarkSequence(POINTS.repeat(4, 1, 1), Fraction(25), (61, 72)).save(motion)
    for work in (
        lambda: maker.speak("one", "p.png", str(recording), "happy", 1, 1, 1, 1, 1, 1, "crop", 0, 0, 1, None, None),
        lambda: maker.repaint("one", "p.png", str(motion), str(recording), 1, 1, 1, 1, 1, None, None),
        lambda: maker._known("one", str(recording), [str(streamed_video(tmp_path / "further.mkv", 130))]),
        lambda: maker.score(str(streamed_video(tmp_path / "v.mkv", 130)), lambda *_, **__: None),
    ):
        with pytest.raises(ValueError, match="more than 5 s"):
            work()


def test_a_speakers_own_portrait_has_his_other_pictures_where_his_networks_paint(tmp_path: Path) -> None:
    own = TalkingHeadPipeline.from_pretrained("bundled")
    maker = _Maker({"bundled": own, "other": tiny_pipeline()}, 5.0, None, tmp_path)
    portrait = shutil.copy(own.folder / "portrait.png", tmp_path / "uploaded.png")
    write_image(tmp_path / "other.png", torch.zeros(3, 8, 8, dtype=torch.uint8))
    assert maker._known("bundled", portrait, None)["references"] == "speaker"
    assert maker._known("bundled", portrait, ["smile.png"])["references"] == ["smile.png"]  # what was given comes first
    assert maker._known("other", portrait, None)["references"] is None
    assert maker._known("bundled", str(tmp_path / "other.png"), None) == {"references": None}


def test_what_a_visitor_may_ask_for_is_bounded(tmp_path: Path) -> None:
    """A small file may be a large picture, and there may be many of them."""
    small, large = str(tmp_path / "small.png"), str(tmp_path / "large.png")
    write_image(small, torch.zeros(3, 1920, 8, dtype=torch.uint8))
    picture = torch.full((3, 960, 3840), 200, dtype=torch.uint8)
    picture[:, :, :1920] = 40
    write_image(large, picture)
    assert torch.equal(_whole_picture(small)[0], read_image(small))
    shrunk, whole = _whole_picture(large)
    assert shrunk.shape == (3, 480, 1920) and shrunk.dtype == torch.uint8 and whole == (960, 3840)
    assert (shrunk[:, :, :950] == 40).all() and (shrunk[:, :, 970:] == 200).all()
    with pytest.raises(ValueError, match="33 further pictures are too many: choose 32 of them at most"):
        _Maker({"one": tiny_pipeline()}, 5.0, None, tmp_path)._known("one", small, ["smile.png"] * 33)


@pytest.mark.parametrize("name", ["smile.png", "phone.heic", "talk.mp4"])
def test_pictures_and_videos_may_be_further_ones(page: Any, name: str) -> None:
    fields = [b for b in page.blocks.values() if isinstance(b, gr.File) and "Further" in (b.label or "")]
    assert len(fields) == 2
    for field in fields:
        kept = gr.data_classes.FileData(path=f"/{name}", orig_name=name)
        assert field.preprocess(gr.components.file.ListFiles([kept])) == [f"/{name}"]
        with pytest.raises(gr.Error, match="Invalid file type"):
            kept = gr.data_classes.FileData(path="/words.txt", orig_name="words.txt")
            field.preprocess(gr.components.file.ListFiles([kept]))


def test_of_the_three_buttons_one_works_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client, now, most = pytest.importorskip("gradio_client"), [0], [0]

    def work(*_: Any) -> None:
        now[0] += 1
        most[0] = max(most[0], now[0])
        time.sleep(1.0)
        now[0] -= 1
        raise ValueError("done")

    for name in ("speak", "repaint", "score"):
        monkeypatch.setattr(_Maker, name, work)
    page, address = run_page(make_page(tiny_pipeline(), folder=tmp_path), block=False)
    try:
        asking = client.Client(address, verbose=False)
        jobs = [
            asking.submit("bundled", None, None, HEARD, *[1] * 6, "crop", 0, 0, 1, None, api_name="/speak"),
            asking.submit("bundled", None, None, None, *[1] * 5, None, api_name="/repaint"),
            asking.submit(None, api_name="/score"),
        ]
        assert ["done" in str(job.exception(60)) for job in jobs] == [True] * 3
    finally:
        page.close()
    assert most == [1]


def test_no_other_sites_name_gets_the_page(tmp_path: Path) -> None:
    page, address = run_page(make_page(tiny_pipeline(), folder=tmp_path), block=False, names=["face.example"])
    try:
        for path in ("", "config", "gradio_api/info"):
            for host, status in (("evil.example:7860", 403), ("face.example", 200), ("127.0.0.1:7860", 200)):
                assert httpx.get(address + path, headers={"host": host}).status_code == status, (path, host)
    finally:
        page.close()


@pytest.mark.parametrize(
    ("frames", "fps", "match"),
    [
        (10_000, 25, "10000 frames; at most 600"),
        (126, 25, "lasts 5 s; at most 5 s"),
        (9, 240, "240 frames/s"),
    ],
)
def test_a_motion_is_as_long_as_a_recording_may_be(tmp_path: Path, frames: int, fps: int, match: str) -> None:
    motion = tmp_path / "motion.npz"
    LandmarkSequence(POINTS.repeat(frames, 1, 1), Fraction(fps), (61, 72)).save(motion)
    maker = _Maker({"one": tiny_pipeline()}, 5.0, None, tmp_path)
    with pytest.raises(ValueError, match=match):
        maker.repaint("one", "p.png", str(motion), None, 1, 1, 1, 1, 1, None, None)


def test_no_other_sites_page_reads_the_app_or_brings_files_to_it(tmp_path: Path) -> None:
    """Gradio keeps them from ``localhost`` alone: elsewhere its answers say that every site may read them."""
    page, _ = run_page(make_page(tiny_pipeline(), folder=tmp_path), block=False)
    client = TestClient(page.app)
    try:
        for host in ("192.168.1.20:7860", "localhost:7860"):
            for origin, status in (("https://evil.example", 403), (f"http://{host}", 200)):
                headers = {"host": host, "origin": origin}
                assert client.get("/gradio_api/info", headers=headers).status_code == status
                upload = client.post("/gradio_api/upload", headers=headers, files={"files": ("a.wav", b"RIFF")})
                assert upload.status_code == status, upload.text
    finally:
        page.close()
