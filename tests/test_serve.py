"""The live server: what a client gets, what a bad one is told, and that it disturbs no other."""

import io
import json
import socket
import threading
import time
from contextlib import suppress

import numpy as np
import pytest
import torch
from conftest import POINTS, speech, tiny_pipeline, tiny_portrait
from PIL import Image

pytest.importorskip("fastapi", reason="the live server is an extra: pip install 'talkhead[live]'")
from fastapi.testclient import TestClient  # noqa: E402
from starlette.websockets import WebSocket, WebSocketDisconnect  # noqa: E402

from talkhead.app import serve as served  # noqa: E402
from talkhead.app.serve import make_server  # noqa: E402
from talkhead.media.read import write_image  # noqa: E402
from talkhead.nets.renderer import Renderer  # noqa: E402
from talkhead.pipeline.live import Live  # noqa: E402
from talkhead.tracking.track import Detection  # noqa: E402

NAMES = ("testserver", "face.example")
"""What the tests' client calls the server, and the name of one behind a proxy."""


@pytest.fixture(scope="module")
def client():
    app = make_server(tiny_pipeline(), tiny_portrait(), reference_landmarks=POINTS, size=64, clients=2, names=NAMES)
    with TestClient(app) as client:
        yield client


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """Skip nothing on a busy machine; the test of skipping asks for it."""
    monkeypatch.setattr(served, "PATIENCE", 10.0)


def pcm(samples: torch.Tensor) -> bytes:
    return (samples * 32767).round().to(torch.int16).numpy().astype("<i2").tobytes()


def answers(socket, count=None):
    """Yield what the server says until its end."""
    while count is None or count > 0:
        message = socket.receive()
        if message["type"] == "websocket.close":
            return
        if message.get("text") is not None:
            message = json.loads(message["text"])
            yield message
            if message["type"] in ("end", "error"):
                return
        else:
            yield message["bytes"]
        count = None if count is None else count - 1


def nobody_speaks(client):
    """Wait until the server has forgotten who was there."""
    for _ in range(100):
        if client.get("/health").json()["speaking"] == 0:
            return True
        time.sleep(0.05)
    return False


def frames_of(messages):
    return {int.from_bytes(m[:4], "little"): Image.open(io.BytesIO(m[4:])) for m in messages if isinstance(m, bytes)}


def test_sound_in_pictures_out(client):
    sound = speech(0.9)
    with client.websocket_connect("/live") as socket:
        for piece in sound.split(320):
            socket.send_bytes(pcm(piece))
        socket.send_text('{"end": true}')
        messages = list(answers(socket))
    assert messages[0] == {"type": "start", "fps": 25.0, "size": [64, 64], "delay": pytest.approx(0.24)}
    assert messages[-1] == {"type": "end"}
    frames = frames_of(messages)
    assert sorted(frames) == list(range(23))  # ceil(0.9 * 25)
    live = tiny_pipeline().live(tiny_portrait(), reference_landmarks=POINTS, size=64)
    expected = torch.cat(
        [live.push(torch.from_numpy(np.frombuffer(pcm(sound), "<i2") / 32768.0)).frames, live.flush().frames]
    )
    error = np.abs(np.asarray(frames[10], dtype=int) - expected[10].numpy().astype(int)).mean()
    assert error < 12  # JPEG of a noisy picture; another frame is above 20


def test_a_client_chooses(client):
    with client.websocket_connect("/live") as socket:
        socket.send_text('{"emotion": "happy", "size": 32, "end": false}')
        socket.send_text('{"end": true}')
        assert list(answers(socket))[0]["size"] == [32, 32]


@pytest.mark.parametrize(
    ("message", "match"),
    [
        ("nonsense", "text must be JSON"),
        ("[" * 60_000, "text must be JSON"),
        (
            json.dumps({"emotion": {str(n): "happy" for n in range(500)}}),
            "text must be JSON of 4096 characters at most",
        ),
        ('{"\\ud800": 1}', "settings may be"),
        ('{"volume": 3}', "settings may be"),
        ('{"size": "large"}', "settings may be"),
        ('{"size": 65}', "size must be at most 64 px here; got 65"),
        ('{"emotion": "bored"}', "bored"),
        (f'{{"seed": {2**64}}}', "seed must be a whole number from"),
        (b"odd", "16-bit mono"),
        (bytes(2 * 16002), "at most 1 s"),
    ],
)
def test_a_bad_client_is_told_in_one_sentence_and_no_other_is_disturbed(client, message, match):
    with client.websocket_connect("/live") as good:
        good.send_bytes(pcm(speech(0.3)))
        assert next(answers(good, 1))["type"] == "start"
        with client.websocket_connect("/live") as bad:
            bad.send_text(message) if isinstance(message, str) else bad.send_bytes(message)
            last = list(answers(bad))[-1]
            assert last["type"] == "error" and match in last["message"] and "\n" not in last["message"]
        good.send_bytes(pcm(speech(0.5)))
        good.send_text('{"end": true}')
        assert len(frames_of(answers(good))) == 20
    assert client.get("/health").json() == {"speaking": 0, "clients": 2}


def test_a_client_too_many_is_refused(client):
    with client.websocket_connect("/live") as one, client.websocket_connect("/live") as two:
        for socket in (one, two):
            socket.send_bytes(pcm(speech(0.1)))
            assert next(answers(socket, 1))["type"] == "start"
        with client.websocket_connect("/live") as three:
            assert "2 clients at once" in next(answers(three, 1))["message"]
        for socket in (one, two):
            socket.send_text('{"end": true}')
            assert list(answers(socket))[-1] == {"type": "end"}


@pytest.mark.parametrize(
    ("origin", "host", "welcome"),
    [
        ("http://testserver", "testserver", True),
        ("https://face.example", "face.example:443", True),
        ("http://[::1]:8000", "[::1]:8000", True),
        ("http://evil.example", "testserver", False),
        ("http://testserver.evil.example", "testserver", False),
        ("http://evil.example:8000", "evil.example:8000", False),  # whose name leads here: DNS rebinding
        ("http://127.0.0.1:3000", "127.0.0.1:8000", False),  # another program's page on this machine
        ("http://127.0.0.1:x", "127.0.0.1", False),
        ("null", "testserver", False),
        ("", "testserver", False),
    ],
)
def test_no_other_sites_page_is_let_in(client, origin, host, welcome):
    def ask():
        with client.websocket_connect("/live", headers={"origin": origin, "host": host}) as socket:
            socket.send_text('{"end": true}')
            assert list(answers(socket))[-1] == {"type": "end"}

    if welcome:
        ask()
    else:
        with pytest.raises(WebSocketDisconnect):  # instead of being accepted
            ask()


def test_no_other_sites_name_gets_the_page(client):
    for path in ("/", "/health"):
        refused = client.get(path, headers={"host": "evil.example:8000"})
        assert refused.status_code == 403 and "--names" in refused.text and "evil" not in refused.text
        assert client.get(path, headers={"host": "face.example"}).status_code == 200


def test_without_a_size_of_the_servers_own_a_client_may_ask_for_the_pages_largest():
    app = make_server(tiny_pipeline(), tiny_portrait(), reference_landmarks=POINTS, names=NAMES)
    with TestClient(app) as client, client.websocket_connect("/live") as socket:
        socket.send_text('{"size": 1025}')
        assert "at most 1024 px" in list(answers(socket))[-1]["message"]


@pytest.mark.parametrize("first", [None, '{"emotion": "happy"}', pcm(speech(0.2))])
def test_one_who_says_nothing_makes_room(client, monkeypatch, first):
    monkeypatch.setattr(served, "SILENCE", 0.5)
    monkeypatch.setattr(served, "FIRST_WORD", 0.5)
    with client.websocket_connect("/live") as socket:
        if first is not None:
            socket.send_text(first) if isinstance(first, str) else socket.send_bytes(first)
        last = list(answers(socket))[-1]
    assert last["type"] == "error" and "nothing came for 0.5 s" in last["message"]
    assert nobody_speaks(client)


@pytest.mark.parametrize("begun", [False, True])
def test_empty_messages_keep_nobodys_place(client, monkeypatch, begun):
    monkeypatch.setattr(served, "SILENCE", 0.5)
    monkeypatch.setattr(served, "FIRST_WORD", 0.5)
    gone = threading.Event()

    def murmur():
        with suppress(WebSocketDisconnect):
            for _ in range(200):
                socket.send_bytes(b"")
                if gone.wait(0.05):
                    return

    with client.websocket_connect("/live") as socket:
        if begun:
            socket.send_bytes(pcm(speech(0.2)))
        murmuring = threading.Thread(target=murmur)
        murmuring.start()
        asked = time.perf_counter()
        last = list(answers(socket))[-1]
        gone.set()
        murmuring.join()
    assert last["type"] == "error" and "nothing came for 0.5 s" in last["message"]
    assert time.perf_counter() - asked < 5 and nobody_speaks(client)


def test_one_who_has_ended_need_not_speak(client, monkeypatch):
    """The last frames may take their time."""
    monkeypatch.setattr(served, "SILENCE", 0.2)
    finish = Live.finish
    monkeypatch.setattr(Live, "finish", lambda live: time.sleep(0.6) or finish(live))
    with client.websocket_connect("/live") as socket:
        socket.send_bytes(pcm(speech(0.2)))
        socket.send_text('{"end": true}')
        assert list(answers(socket))[-1] == {"type": "end"}


@pytest.mark.parametrize(
    "failure", [torch.OutOfMemoryError("12 GB"), RuntimeError("cuda"), OSError("disk"), ValueError("shape")]
)
@pytest.mark.parametrize("where", ["move", "paint"])
def test_a_failure_of_the_server_is_told_and_logged(client, monkeypatch, caplog, failure, where):
    def fail(*_):
        raise failure

    monkeypatch.setattr(Live, where, fail)
    with client.websocket_connect("/live") as socket:
        socket.send_bytes(pcm(speech(0.5)))
        last = list(answers(socket))[-1]
    assert last["type"] == "error" and "this server failed" in last["message"] and str(failure) not in last["message"]
    assert [record.exc_info[1] for record in caplog.records if record.name == served.__name__] == [failure]
    assert nobody_speaks(client)


def test_portrait_and_further_pictures_are_read_once(tmp_path):
    """A client's first frame, in which nobody speaks yet, has the mouth of a further picture, long deleted."""
    write_image(tmp_path / "face.png", picture := tiny_portrait())
    green = picture.clone()
    green[1] = 255
    write_image(tmp_path / "green.png", green)

    def first_frame(**options) -> np.ndarray:
        torch.manual_seed(0)
        pipe = tiny_pipeline()
        pipe.renderer = Renderer(size=32, widths=(8, 16), patch=2, bank=1).eval()
        with torch.no_grad():
            pipe.renderer.unet.head.bias[5 * 4 : 6 * 4] = 100.0  # the odds of the nearest picture
        options |= {"reference_landmarks": POINTS, "detector": lambda *_, **__: Detection(POINTS, 1.0, (0, 0, 72, 61))}
        app = make_server(pipe, tmp_path / "face.png", size=64, names=NAMES, **options)
        for file in tmp_path.iterdir() if options.get("references") else ():
            file.unlink()
        with TestClient(app) as client, client.websocket_connect("/live") as socket:
            socket.send_bytes(b"\0\0" * 8000)
            socket.send_text('{"end": true}')
            told = list(answers(socket))
        assert told[-1] == {"type": "end"}
        return np.asarray(frames_of(told)[0], float)

    alone, helped = first_frame(), first_frame(references=[tmp_path / "green.png"])
    assert not [*tmp_path.iterdir()] and abs(alone - helped).max() > 20


def test_one_who_cannot_be_sent_to_has_gone_without_a_word(client, monkeypatch, caplog):
    tried = threading.Event()

    async def fail(*_):
        tried.set()
        raise RuntimeError("no websocket any more")

    monkeypatch.setattr(WebSocket, "send_bytes", fail)
    with client.websocket_connect("/live") as socket:
        socket.send_bytes(pcm(speech(0.5)))
        assert tried.wait(30) and nobody_speaks(client)
    assert [record for record in caplog.records if record.name == served.__name__] == []


def test_one_who_just_goes_leaves_nothing(client):
    with client.websocket_connect("/live") as socket:
        socket.send_bytes(pcm(speech(0.2)))
        next(answers(socket, 1))
    assert nobody_speaks(client)


def test_too_much_at_once_is_no_live_sound(client, monkeypatch):
    monkeypatch.setattr(served, "LONGEST_QUEUE", 0.5)
    with client.websocket_connect("/live") as socket:
        with pytest.raises(WebSocketDisconnect):  # the test's client raises where the server has closed
            for _ in range(400):
                socket.send_bytes(pcm(speech(1.0)))
                if any(isinstance(m, dict) and m["type"] == "error" for m in answers(socket, 1)):
                    raise WebSocketDisconnect


def test_a_slow_machine_says_so_and_skips(client, monkeypatch):
    monkeypatch.setattr(served, "PATIENCE", 0.2)
    with client.websocket_connect("/live") as socket:
        socket.send_bytes(pcm(speech(0.2)))
        assert next(answers(socket, 1))["type"] == "start"
        for _ in range(4):
            socket.send_bytes(pcm(speech(1.0)))
        socket.send_text('{"end": true}')
        messages = list(answers(socket))
    slow = [m for m in messages if isinstance(m, dict) and m["type"] == "slow"]
    frames = frames_of(messages)
    assert slow and messages[-1] == {"type": "end"}
    # Every frame was shown or said to be skipped, in order, and the last one is on time.
    assert len(frames) + sum(m["skipped"] for m in slow) == 105 == max(frames) + 1
    assert list(frames) == sorted(frames)


@pytest.mark.parametrize("piece", [0.4, 1.0])
def test_long_messages_are_not_late(client, monkeypatch, piece):
    """A voice that is synthesised comes in long pieces: their frames come at once, and all are shown."""
    monkeypatch.setattr(served, "PATIENCE", 0.3)
    monkeypatch.setattr(Live, "_paint", lambda self, landmarks, start: torch.zeros(len(landmarks), 8, 8, 3).byte())
    with client.websocket_connect("/live") as socket:
        messages = []
        reading = threading.Thread(target=lambda: messages.extend(answers(socket)))
        reading.start()
        for part in speech(3 * piece).split(round(16000 * piece)):
            socket.send_bytes(pcm(part))
            time.sleep(0.3)  # painted long before the next
        socket.send_text('{"end": true}')
        reading.join(30)
    assert not [m for m in messages if isinstance(m, dict) and m["type"] == "slow"]
    assert len(frames_of(messages)) == round(75 * piece)


def test_a_port_that_is_taken_and_no_clients_are_refused():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen at 127.0.0.1:{port} .*choose another --port"):
            served.serve(tiny_pipeline(), tiny_portrait(), port=port, reference_landmarks=POINTS, size=64)
    with pytest.raises(ValueError, match="clients must be at least 1; got 0"):
        make_server(tiny_pipeline(), tiny_portrait(), reference_landmarks=POINTS, size=64, clients=0)


def test_a_renderer_too_slow_leaves_sound_and_picture_together(client, monkeypatch):
    """All 75 frames of three seconds would end 4.5 s late; with hops skipped none is half as late."""
    monkeypatch.setattr(served, "PATIENCE", 0.2)
    paint = Live._paint

    def slowly(self, landmarks, start):
        time.sleep(0.1 * len(landmarks))
        return paint(self, landmarks, start)

    monkeypatch.setattr(Live, "_paint", slowly)
    with client.websocket_connect("/live") as socket:
        begun = time.perf_counter()

        def speak():
            for number, piece in enumerate(speech(3.0).split(1600), 1):
                time.sleep(max(0, begun + 0.1 * number - time.perf_counter()))
                socket.send_bytes(pcm(piece))
            socket.send_text('{"end": true}')

        speaking = threading.Thread(target=speak)
        speaking.start()
        arrived = [(time.perf_counter() - begun, message) for message in answers(socket)]
        speaking.join()
    skipped = sum(m["skipped"] for _, m in arrived if isinstance(m, dict) and m["type"] == "slow")
    numbers = {int.from_bytes(m[:4], "little"): at for at, m in arrived if isinstance(m, bytes)}
    assert skipped > 10 and len(numbers) + skipped == 75 and list(numbers) == sorted(numbers)
    assert max(at - number / 25 for number, at in numbers.items()) < 2.25


def test_the_page_is_served(client):
    page = client.get("/").text
    assert "getUserMedia" in page and "talkhead live" in page
    assert client.get("/../pyproject.toml").status_code == 404
