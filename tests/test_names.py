"""Which names a server answers to: what a browser asks for when another site's name leads to this machine."""

import asyncio
import socket

import pytest
from conftest import POINTS, tiny_pipeline, tiny_portrait

pytest.importorskip("starlette", reason="the servers are extras: pip install 'talkhead[live]'")
from talkhead.app.names import OwnPagesOnly, own_names  # noqa: E402


def answer(host, names=frozenset({"localhost", "face.example"}), kind="http", origin=None):
    """Return the status of a request by a name; of a WebSocket's, that of its refusal."""
    sent = []

    async def app(scope, receive, send):
        await send({"type": "let in", "status": 200})

    async def send(message):
        sent.append(message)

    given = {b"host": host, b"origin": origin}
    headers = [(name, value.encode("latin-1")) for name, value in given.items() if value is not None]
    asyncio.run(OwnPagesOnly(app, names)({"type": kind, "headers": headers}, None, send))
    return sent[0]["status"] if kind == "http" else sent[0]["type"]


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "localhost:8000", "LOCALHOST.", "me.localhost:1", "face.example", "Face.Example:443", None),
        *(
            "127.0.0.1",
            "192.168.1.20:8000",
            "[::1]:8000",
            "[fe80::1%25eth0]:80",
            "8.8.8.8",
        ),  # no site has a bare address
    ],
)
def test_addresses_and_own_names_are_let_in(host):
    assert answer(host) == 200


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8000", "face.example.evil.example", "xface.example", "localhost.evil.example"),
        *("127.0.0.1.nip.io", "evil.example@localhost.evil.example", "", ":8000", "[::1", "[nonsense]", "\xe9"),
    ],
)
def test_other_names_are_not(host):
    assert answer(host) == 403
    assert answer(host, kind="websocket") == "websocket.close"


def test_what_a_server_is_told_and_what_its_machine_is_called(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "Box.lan.example")
    names = own_names(["A.example"], host="face.example")
    assert names == {"localhost", "box.lan.example", "box", "box.local", "face.example", "a.example"}
    assert own_names("b.example") - own_names() == {"b.example"}  # one name is no row of letters


@pytest.mark.parametrize(
    "name", ["https://face.example", "face.example:443", "face.example/live", "", "*", "a..b", "\xe9"]
)
def test_what_is_no_name_is_refused(name):
    with pytest.raises(ValueError, match=r"names must be host names such as face\.example; got .*leave out") as raised:
        own_names([name])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        *(("http://localhost:7860", "localhost:7860"), ("https://face.example", "face.example")),
        *(("http://192.168.1.20:8000", "192.168.1.20:8000"), ("http://[::1]:8000", "[::1]:8000")),
    ],
)
def test_its_own_pages_are_let_in(origin, host):
    assert answer(host, origin=origin) == answer(host, origin=None) == 200


@pytest.mark.parametrize("host", ["localhost:7860", "192.168.1.20:7860", "face.example", None])
@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://localhost:3000", "http://10.0.0.9", "null", "", "x"]
)
def test_other_sites_pages_are_not(origin, host):
    assert answer(host, origin=origin) == 403
    assert answer(host, origin=origin, kind="websocket") == "websocket.close"


@pytest.mark.parametrize(("host", "start"), [("127.0.0.1", "http://127.0.0.1:"), ("::1", "http://[::1]:")])
def test_the_address_that_is_printed_can_be_opened(monkeypatch, capsys, host, start):
    uvicorn = pytest.importorskip("uvicorn", reason="the live server is an extra: pip install 'talkhead[live]'")
    from talkhead.app.serve import serve

    bound = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: bound.append(sockets[0].getsockname()[1]))
    serve(tiny_pipeline(), tiny_portrait(), host=host, port=0, reference_landmarks=POINTS, size=64)
    assert bound[0] > 0 and capsys.readouterr().out == f"talkhead live: {start}{bound[0]}\n"
