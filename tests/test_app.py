"""The page in a real browser: upload to playing video, wrong file, two users, keyboard alone; and its rules."""

import threading
import urllib.error
import urllib.request
import warnings
from fractions import Fraction
from functools import partial
from pathlib import Path

import pytest
import torch
from browsing import GRADIOS_WARNINGS, chromium
from conftest import POINTS, shaken, speech, tiny_face, tiny_pipeline, tiny_portrait
from media_files import without_sound

from talkhead.media.read import MediaWarning, iter_frames, probe, write_audio, write_image
from talkhead.media.write import VideoWriter
from talkhead.metrics import mouth_opening
from talkhead.pipeline.motion import LandmarkSequence
from talkhead.tracking.track import Detection, smooth_landmarks

pytest.importorskip("gradio", reason="the page is an extra: pip install 'talkhead[ui]'")
pytestmark = GRADIOS_WARNINGS
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from talkhead.app.page import make_page, run_page, with_dots


class OneFace:
    """A detector for the tests' portrait: pictures of other sizes show nobody."""

    name = "fixed"

    def __call__(self, image, face="largest"):
        return Detection(POINTS, 1.0, (16, 10, 56, 50)) if image.shape[1:] == (61, 72) else None


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A portrait, two recordings, a picture of nobody, and no picture at all."""
    folder = tmp_path_factory.mktemp("inputs")
    write_image(folder / "portrait.png", tiny_portrait())
    write_image(folder / "nobody.png", torch.zeros(3, 40, 40, dtype=torch.uint8))
    write_audio(folder / "short.wav", speech(0.6))
    write_audio(folder / "longer.wav", speech(1.2))
    write_audio(folder / "endless.wav", speech(9.0))
    return folder


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    page = make_page(tiny_pipeline(), longest=5.0, detector=OneFace(), folder=tmp_path_factory.mktemp("served"))
    page, address = run_page(page, block=False)
    yield address.rstrip("/")
    page.close()


@pytest.fixture
def browser():
    with chromium() as browser:
        yield browser


def fill(page, address, image, audio):
    """Open the page and give it its two files."""
    page.set_default_timeout(60_000)
    page.goto(address)
    page.get_by_role("tab", name="Speak").wait_for()
    page.locator("input[type=file][accept*=image]").first.set_input_files(image)
    page.locator("input[type=file][accept*=audio]").first.set_input_files(audio)
    page.get_by_role("button", name="Make the video").wait_for()
    page.wait_for_timeout(1500)  # the uploads' own requests


def made(page, video=None):
    """Return the seconds of the video that plays."""
    video = video or page.locator(".made video").first
    video.wait_for()
    page.wait_for_function("v => v.duration > 0", arg=video.element_handle())
    return video.evaluate("v => v.duration")


@pytest.mark.browser
def test_from_upload_to_a_playing_video(browser, address, inputs):
    page = browser.new_page(viewport={"width": 390, "height": 844})  # a phone
    fill(page, address, inputs / "portrait.png", inputs / "short.wav")
    page.locator("#speak").click()
    assert made(page) == pytest.approx(0.6, abs=0.1)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390  # nothing hangs over the edge
    assert not page.get_by_role("button", name="Share").count()  # with nobody, unless --share asks for it


@pytest.mark.browser
def test_a_microphone_is_heard(address, inputs):
    with chromium(inputs / "longer.wav") as browser:
        page = browser.new_page()
        page.set_default_timeout(60_000)
        page.goto(address)
        page.locator("input[type=file][accept*=image]").first.set_input_files(inputs / "portrait.png")
        page.get_by_label("Record audio").first.click()
        page.locator("button.record-button").first.click()
        page.wait_for_timeout(1500)
        page.locator("button.stop-button").first.click()
        page.get_by_label("Play").first.wait_for()
        page.wait_for_timeout(1500)  # the upload's own request
        page.locator("#speak").click()
        assert 0.5 < made(page) < 5


@pytest.mark.browser
def test_a_wrong_file_is_one_sentence(browser, address, inputs):
    page = browser.new_page()
    fill(page, address, inputs / "nobody.png", inputs / "short.wav")
    page.locator("#speak").click()
    page.get_by_text("image: no face was found in 'nobody.png' by the detector fixed").first.wait_for()


@pytest.mark.browser
def test_too_long_is_refused(browser, address, inputs):
    page = browser.new_page()
    fill(page, address, inputs / "portrait.png", inputs / "endless.wav")
    page.locator("#speak").click()
    page.get_by_text("lasts 9 s; at most 5 s").first.wait_for()


@pytest.mark.browser
def test_two_users_get_their_own(browser, address, inputs):
    pages = [browser.new_context().new_page() for _ in range(2)]
    for page, sound in zip(pages, ("short.wav", "longer.wav"), strict=True):
        fill(page, address, inputs / "portrait.png", inputs / sound)
    for page in pages:
        page.locator("#speak").click()
    assert [made(page) for page in pages] == [pytest.approx(0.6, abs=0.1), pytest.approx(1.2, abs=0.1)]


@pytest.mark.browser
def test_the_keyboard_alone_is_enough(browser, address, inputs):
    page = browser.new_page()
    fill(page, address, inputs / "portrait.png", inputs / "short.wav")
    page.keyboard.press("Tab")
    for _ in range(80):
        if page.evaluate("document.activeElement.id") == "speak":
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert made(page) == pytest.approx(0.6, abs=0.1)


@pytest.mark.browser
def test_the_second_tab_paints_an_edited_motion(browser, address, inputs, tmp_path):
    motion = POINTS.repeat(12, 1, 1) + torch.linspace(0, 2, 12).view(-1, 1, 1)
    LandmarkSequence(motion, Fraction(25), (61, 72)).save(tmp_path / "motion.npz")
    page = browser.new_page()
    page.set_default_timeout(60_000)
    page.goto(address)
    page.get_by_role("tab", name="Edit motion").click()
    tab = page.get_by_role("tabpanel").filter(has_text="Smoothing in frames")
    tab.locator("input[type=file][accept*=image]").first.set_input_files(inputs / "portrait.png")
    tab.locator("input[type=file][accept*=npz]").first.set_input_files(tmp_path / "motion.npz")
    page.wait_for_timeout(1500)
    tab.get_by_role("button", name="Paint again").click()
    assert made(page, tab.locator(".made video")) == pytest.approx(0.48, abs=0.1)


def test_files_outside_the_folder_are_not_served(address):
    for path in ("/etc/hostname", str(Path(__file__).resolve())):
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(f"{address}/gradio_api/file={path}")
        assert error.value.code in (403, 404)
    assert address.startswith("http://127.0.0.1:")


def test_what_the_buttons_do(inputs, tmp_path):
    """Speak, edit the motion, paint again, without a browser."""
    from talkhead.app.page import _Maker

    other = tiny_pipeline()
    shaken(other.renderer, 0.3)
    maker = _Maker({"one": tiny_pipeline(), "other": other}, 5.0, OneFace(), tmp_path)
    told = []
    image, audio = str(inputs / "portrait.png"), str(inputs / "short.wav")
    video, marked, motion, plot = maker.speak(
        "one", image, audio, "happy", 1, 1, 1, 1, 1, 1, "full", 0, 0, 1, None, lambda share, desc: told.append(share)
    )
    assert probe(video).num_frames == probe(marked).num_frames == 15 and Path(plot).stat().st_size > 1000
    assert told[-1] == 1.0
    args = (image, audio, "happy", 1, 1, 1, 1, 1, 1, "full", 0, 0, 1, None, lambda *_, **__: None)
    chosen = [torch.stack(list(iter_frames(maker.speak(name, *args)[0]))) for name in ("one", "other")]
    assert not torch.equal(*chosen)  # the speaker that was chosen paints
    again = maker.repaint("one", image, motion, audio, 0.5, 1, 1, 1, 7, None, lambda *_, **__: None)
    assert probe(again[0]).num_frames == 15
    assert all(Path(p).is_relative_to(tmp_path) for p in (video, marked, motion, plot, *again))
    for wrong in [(None, audio), (image, None)]:
        with pytest.raises(ValueError, match="a portrait and a recording"):
            maker.speak("one", *wrong, "happy", 1, 1, 1, 1, 1, 1, "full", 0, 0, 1, None, None)


def test_a_motion_of_a_portrait_that_was_shrunk_is_painted_again_on_the_portrait(inputs, tmp_path, monkeypatch):
    """Whole pictures are painted at 72 px at most here; the portrait has 144, and so has its motion."""
    from talkhead.app.page import _Maker

    class AnySize:
        name = "fixed"

        def __call__(self, image, face="largest"):
            return Detection((POINTS + 0.5) * (image.shape[2] / 72) - 0.5, 1.0, (0, 0, *image.shape[1:]))

    monkeypatch.setattr("talkhead.app.page.LARGEST_WHOLE", 72)
    image, audio = str(tmp_path / "large.png"), str(inputs / "short.wav")
    write_image(image, tiny_portrait().repeat_interleave(2, 1).repeat_interleave(2, 2))
    maker = _Maker({"one": tiny_pipeline()}, 5.0, AnySize(), tmp_path)
    asked = ("happy", 0, 0, 0, 0, 0, 0, "full", 0, 0, 1, None, lambda *_, **__: None)  # at rest
    video, _, motion, _ = maker.speak("one", image, audio, *asked)
    assert probe(video).width == 72
    kept = LandmarkSequence.load(motion)
    assert kept.size == (122, 144)
    nose = (POINTS[27:36] + 0.5) * 2 - 0.5
    assert (kept.landmarks[:, 27:36] - nose).abs().max() < 0.3
    again = maker.repaint("one", image, motion, audio, 1, 1, 1, 1, 1, None, lambda *_, **__: None)
    assert probe(again[0]).num_frames == 15


def test_score_says_what_is_in_a_video(tmp_path, inputs):
    from talkhead.app.score import score

    with VideoWriter(tmp_path / "v.mp4", 25, (61, 72), speech(0.8)) as video:
        for _ in range(20):
            video.append(tiny_portrait())

    class Padded(OneFace):
        def __call__(self, image, face="largest"):  # H.264 has even sizes
            return Detection(POINTS, 1.0, (16, 10, 56, 50))

    rows = score(tmp_path / "v.mp4", Padded())
    assert rows["frames with a face"] == "20, in 1 uncut stretches" and "cannot be told" in rows["loudness and mouth"]
    with pytest.warns(MediaWarning, match="cut off"):
        empty = score(without_sound(tmp_path / "v.mp4", tmp_path / "v.mkv"), Padded())
    assert empty == rows | {"loudness and mouth": "no sound"}
    assert "0.000 up and down" in rows["mouth's opening, face sizes"]


def speaking(path, seconds, first=0):
    """Write 3 s of picture with less sound; return it, and a detector whose face, seen from a frame on, speaks."""
    with VideoWriter(path, 25, (60, 72), speech(seconds)) as video:
        for _ in range(75):
            video.append(tiny_portrait()[:, :60])
    openings = 0.5 - 0.5 * torch.cos(2 * torch.pi * 3 * torch.arange(75) / 25)
    faces = [tiny_face(40, opening) + torch.tensor([16.0, 10.0]) for opening in openings.tolist()]
    seen = iter([None] * first + [Detection(face, 1.0, (16, 10, 56, 50)) for face in faces[first:]])
    return path, lambda image, face="largest": next(seen)


@pytest.mark.filterwarnings("ignore:.*of picture beside:talkhead.media.read.MediaWarning")
def test_a_sound_that_ends_before_the_picture_is_scored_as_silence_after_it(tmp_path):
    from talkhead.app.score import score

    padded = torch.cat([speech(1.5), torch.zeros(24_000)])
    _, detector = speaking(tmp_path / "v.mp4", 1.5)
    points = smooth_landmarks(torch.stack([detector(None).landmarks for _ in range(75)]), 7)
    truth = torch.corrcoef(torch.stack([mouth_opening(points), padded.view(75, 640).square().mean(1).sqrt()]))[0, 1]
    said = score(*speaking(tmp_path / "v.mp4", 1.5))["loudness and mouth"]
    assert float(said.split()[1]) == pytest.approx(truth.item(), abs=0.03)  # AAC's own loss
    assert "cannot be told" in score(*speaking(tmp_path / "v.mp4", 1.0, first=30))["loudness and mouth"]  # all silent
    alone = score(*speaking(tmp_path / "v.mp4", 3.0, first=74))  # one frame
    assert (
        "cannot be told" in alone["loudness and mouth"] and "0.000 up and down" in alone["mouth's opening, face sizes"]
    )


def test_a_video_that_cannot_be_finished_keeps_no_threads(inputs, tmp_path, request):
    """The error is kept, as a server keeps it for its answer."""
    from talkhead.app.page import _Maker

    def stops(*_, **__):
        raise OSError("no room")

    request.addfinalizer(partial(torch.set_num_threads, torch.get_num_threads()))
    torch.set_num_threads(2)
    others = set(threading.enumerate())
    maker = _Maker({"one": tiny_pipeline()}, 15.0, OneFace(), tmp_path)
    with pytest.raises(OSError, match="no room") as kept:
        image, audio = str(inputs / "portrait.png"), str(inputs / "endless.wav")
        maker.speak("one", image, audio, "happy", 1, 1, 1, 1, 1, 1, "crop", 0, 0, 1, None, stops)
    assert kept.value and not [t for t in set(threading.enumerate()) - others if t.name.startswith("ahead")]


def test_any_free_port_may_be_asked_for():
    page, address = run_page(make_page(tiny_pipeline()), port=0, block=False)
    try:
        assert not address.endswith(":0/") and urllib.request.urlopen(address).status == 200
    finally:
        page.close()


@pytest.mark.parametrize("longest", [0.0, -1.0, float("nan"), "120"])
def test_a_length_that_would_bound_nothing_is_refused(longest):
    with pytest.raises(ValueError, match="longest must be above 0 s"):
        make_page(tiny_pipeline(), longest=longest)


def test_dots_lie_on_the_landmarks():
    frame = with_dots(torch.zeros(61, 72, 3, dtype=torch.uint8), POINTS)
    x, y = POINTS[30].round().long().tolist()
    assert frame[y, x, 1] == 255 and frame[0, 0].sum() == 0
