"""The live page in a real browser: what the microphone hears is on the screen, in time, and by keyboard alone."""

import threading
import time
from contextlib import contextmanager

import pytest
from browsing import chromium
from conftest import POINTS, speech, tiny_pipeline, tiny_portrait

from talkhead.media.read import write_audio

pytest.importorskip("fastapi", reason="the live server is an extra: pip install 'talkhead[live]'")
pytestmark = pytest.mark.browser


@contextmanager
def served(**options):
    """Serve a live face; yield its address."""
    import uvicorn

    from talkhead.app.serve import make_server

    app = make_server(tiny_pipeline(), tiny_portrait(), reference_landmarks=POINTS, size=64, **options)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", ws="websockets-sansio"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def address():
    with served() as address:
        yield address


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    path = tmp_path_factory.mktemp("spoken") / "speech.wav"
    write_audio(path, speech(2.0))
    return path


PICTURE = "[...document.querySelector('canvas').getContext('2d').getImageData(0, 0, 64, 64).data]"


@pytest.mark.storm  # a microphone does not wait for a machine that does something else beside
def test_a_microphones_face_moves_and_stops_by_keyboard_alone(address, spoken):
    with chromium(spoken) as browser:
        page = browser.new_page(viewport={"width": 390, "height": 844})  # a phone
        said = []
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(address)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "start"
        page.keyboard.press("Enter")
        page.wait_for_function("() => Number(document.getElementById('shown').textContent) > 10", timeout=30_000)
        pictures = []
        for _ in range(2):
            pictures.append(page.evaluate(PICTURE))
            shown = int(page.locator("#shown").text_content())
            page.wait_for_function(f"() => Number(document.getElementById('shown').textContent) > {shown + 5}")
        assert len(set(pictures[0])) > 20 and pictures[0] != pictures[1]  # a picture, and one that moves
        assert page.locator("#latency").text_content().endswith(" ms")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.get_by_text("Stopped.").wait_for()
        assert page.locator("#start").is_enabled() and said == []


JOINS_ITS_OWN_RATE_ALONE = """
const joined = AudioContext.prototype.createMediaStreamSource, own = new AudioContext().sampleRate;
AudioContext.prototype.createMediaStreamSource = function (stream) {
  if (this.sampleRate !== own) throw new DOMException("AudioContexts with different sample-rate", "NotSupportedError");
  return joined.call(this, stream);
};
"""


def test_a_browser_that_joins_no_microphone_to_another_rate_hears(address, spoken):
    """Firefox was one for years; here Chromium is made as strict."""
    with chromium(spoken) as browser:
        page = browser.new_page()
        page.add_init_script(JOINS_ITS_OWN_RATE_ALONE)
        page.goto(address)
        page.locator("#start").click()
        page.wait_for_function("() => Number(document.getElementById('shown').textContent) > 0", timeout=30_000)
        assert "bad" not in page.locator("#status").get_attribute("class").split()


def played(address, spoken):
    """Play a file to its end; return how many of its 50 frames were shown, came too late and were left out."""
    with chromium() as browser:
        page = browser.new_page()
        page.goto(address)
        page.locator("#source").select_option("file")
        page.locator("#file").set_input_files(spoken)
        page.locator("#start").click()
        page.get_by_text("The end.").wait_for(timeout=30_000)
        return [int(page.locator(f"#{name}").text_content()) for name in ("shown", "late", "skipped")]


def test_a_file_is_shown_to_its_end(address, spoken):
    shown, late, skipped = played(address, spoken)
    assert 0 < shown <= 51 and shown + late + skipped >= 45  # a busy machine shows fewer


def test_frames_that_come_later_by_the_servers_own_choice_are_shown_all_the_same(spoken):
    """Ten frames at once, half a second after their sound: 0.9 s, of which the server tells."""
    with served(hop=10, look_ahead=0.5) as address:
        shown, late, _ = played(address, spoken)
    assert shown > late  # a busy machine shows fewer


def test_no_file_is_one_sentence(address):
    with chromium() as browser:
        page = browser.new_page()
        page.goto(address)
        page.locator("#source").select_option("file")
        page.locator("#start").click()
        page.get_by_text("Choose a file first.").wait_for()


def test_a_page_that_may_not_hear_says_so(address):
    with chromium() as browser:
        page = browser.new_page()
        page.add_init_script("Object.defineProperty(window, 'isSecureContext', { value: false })")
        page.goto(address)
        page.locator("#start").click()
        page.get_by_text("only over HTTPS").wait_for()
        assert page.locator("#start").is_enabled()
