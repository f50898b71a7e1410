"""A live face behind a WebSocket: sound in, JPEG pictures out, and a page that shows it from a microphone.

The client sends sound as 16-bit little-endian PCM, mono, 16 kHz, in pieces of any size up to `LONGEST_PIECE` seconds.
A first message may be JSON text with ``emotion``, ``size`` or ``seed``; the text ``{"end": true}`` asks for the last
frames. The server answers

* ``{"type": "start", "fps": 25.0, "size": [256, 256], "delay": 0.28}``;
* for each frame a binary message: its number as 32-bit little-endian, then a JPEG;
* ``{"type": "slow", "skipped": 6, "behind": 0.8}`` where it could not keep up and left out frames: the newest
  are painted, so that pictures and sound stay together;
* ``{"type": "end"}``, or ``{"type": "error", "message": ...}`` with one sentence, and closes.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import math
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import reduce
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from talkhead.app import LARGEST_SIDE
from talkhead.app.names import OwnPagesOnly, own_names
from talkhead.data.clip import SAMPLE_RATE
from talkhead.one_line import one_line
from talkhead.pipeline import TalkingHeadPipeline
from talkhead.pipeline.live import Live
from talkhead.pipeline.live_frames import LiveMotion

LONGEST_PIECE = 1.0
"""Seconds of sound in one message."""
LONGEST_SETTINGS = 4096
"""Characters of a client's settings: each key of a track of emotions costs work in every hop."""
LONGEST_QUEUE = 5.0
"""Seconds of sound that may wait; a client that sends more at once is not live, and is told so."""
PATIENCE = 0.3
"""Seconds of frames that may wait to be painted, beside those of one message; of more the newest alone are painted."""
FIRST_WORD = 10.0
"""Seconds until a client's first message, at most: another may be waiting for its place."""
SILENCE = 30.0
"""Seconds between its messages. A microphone is never silent: live.html sends what it hears fifty times a second."""
QUALITY = 85
"""Of the JPEG pictures."""
SETTINGS = {"emotion": str, "size": int, "seed": int}
"""What a client may ask for."""
_FOUND = ("fps", "face", "detector", "references", "fine")
"""What the first face is found by; a client's is that one."""
_LOG = logging.getLogger(__name__)


class ClientError(ValueError):
    """A client did what is not in the protocol; the message goes to it."""


class _GoneError(Exception):
    """A client has gone: nothing can be sent to it any more."""


def make_server(
    pipeline: TalkingHeadPipeline,
    image: str | Path,
    *,
    reference_landmarks: Tensor | None = None,
    clients: int = 2,
    host: str = "localhost",
    names: Iterable[str] = (),
    **options: Any,
) -> Any:
    """Return the server's FastAPI application.

    Args:
        pipeline: whose networks are used.
        image: the portrait.
        reference_landmarks: (68, 2) px of the portrait; None: detected.
        clients: how many may speak at once; one more is refused with a sentence.
        host: where it is to listen.
        names: host names that it goes by beside the host and this machine's; who asks by another is refused.
        options: see `TalkingHeadPipeline.live`; a client's own come first, but for a size above this one.

    Raises:
        ValueError: if an option is out of range, no face is found or a name is none: before the server starts.
        ImportError: if FastAPI is not installed.
    """
    try:
        from fastapi import FastAPI, WebSocket
        from fastapi.responses import HTMLResponse
    except ImportError:
        raise ImportError("`talkhead serve` needs FastAPI and uvicorn; run: pip install 'talkhead[live]'") from None
    if clients < 1:
        raise ValueError(f"clients must be at least 1; got {clients}")
    own = own_names(names, host)
    first = pipeline.live(image, reference_landmarks=reference_landmarks, **options)
    first.push(torch.zeros(SAMPLE_RATE))  # warm, so that the first client does not wait
    # No file is looked at again, and no face looked for.
    ready = {name: value for name, value in options.items() if name not in _FOUND}
    ready |= {"fps": first.fps, "further": first.further}
    # A client takes two workers, one to hear the next hop while the other paints this one. Within an operation two
    # threads wait for each other: they made one second of speech in more than a second (docs/measurements/hands.md).
    count = max(2, clients)
    share = max(1, torch.get_num_threads() // count)  # of the cores, or of what OMP_NUM_THREADS says
    workers = ThreadPoolExecutor(count, "live", initializer=torch.set_num_threads, initargs=(share,))
    largest, speaking = options.get("size") or LARGEST_SIDE, set[object]()

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        yield
        workers.shutdown(cancel_futures=True)

    app = FastAPI(title="talkhead live", lifespan=lifespan)
    app.add_middleware(OwnPagesOnly, names=own)

    @app.get("/")
    def page() -> HTMLResponse:
        return HTMLResponse((files("talkhead.app") / "live.html").read_text(encoding="utf-8"))

    @app.get("/health")
    def health() -> dict[str, int]:
        return {"speaking": len(speaking), "clients": clients}

    async def live(socket: WebSocket) -> None:
        me = object()
        try:
            await _sent(socket.accept())
            if len(speaking) >= clients:
                raise ClientError(f"this server speaks with {clients} clients at once, and they are here; try later")
            speaking.add(me)
            session = _Session(lambda more: Live(pipeline, first.portrait, **(ready | more)), largest, workers)
            await session.run(socket)
        except _GoneError:
            pass
        except Exception as error:  # whatever it is, one client's end is not the server's
            await _excuse(socket, error)
        finally:
            speaking.discard(me)

    # FastAPI reads the annotation, which names a class that is imported in this function.
    live.__annotations__["socket"] = WebSocket
    app.websocket("/live")(live)
    return app


class _Session:
    """One client: sound waits for who moves the face, and motion for who paints it, each in a queue of its own."""

    def __init__(self, begin: Callable[[dict[str, Any]], Live], largest: int, workers: Any) -> None:
        self._begin, self._largest, self._workers = begin, largest, workers
        self._waiting: list[Tensor] = []
        self._ended = False
        self._news = asyncio.Event()
        self._moved: asyncio.Queue[LiveMotion | None] = asyncio.Queue()  # None: what is left is in _last
        self._last: LiveMotion | None = None
        self._longest = 0.0  # s of the client's longest message: so much comes at once, and is not late

    async def run(self, socket: Any) -> None:
        """Speak until the client ends or goes."""
        tasks: list[asyncio.Task[None]] = []
        try:
            first = await self._message(socket, FIRST_WORD)
            settings = first if isinstance(first, dict) and not first.get("end") else {}
            live = await self._started(settings)
            await _tell(socket, {"type": "start", "fps": float(live.fps), "size": live.size, "delay": live.delay})
            self._take(first if settings is not first else None)
            work = (self._receive(socket), self._move(live), self._paint(socket, live))
            tasks = [asyncio.create_task(part) for part in work]
            for task in tasks:  # of several that fail together one is told of; the others' errors are seen here
                task.add_done_callback(lambda task: task.cancelled() or task.exception())
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            failed = [error for task in done if (error := task.exception()) is not None]
            if failed:  # of several, that of the server, whose log must have it
                raise min(failed, key=lambda error: isinstance(error, _GoneError | ClientError))
        finally:
            for task in tasks:
                task.cancel()

    async def _started(self, settings: dict[str, Any]) -> Live:
        """Begin as a client's settings say; the server's own were tried when it was made."""
        if settings.get("size", 0) > self._largest:
            raise ClientError(f"size must be at most {self._largest} px here; got {settings['size']}, ask for less")
        try:
            return await self._work(self._begin, {name: settings[name] for name in settings if name != "end"})
        except ValueError as error:
            raise ClientError(str(error)) from error

    async def _receive(self, socket: Any) -> None:
        while not self._ended:
            self._take(await self._message(socket, SILENCE))

    def _take(self, message: Tensor | dict[str, Any] | None) -> None:
        """Queue a piece of sound, or note that there is no more."""
        if isinstance(message, dict):
            if not message.get("end"):
                raise ClientError("settings must be the first message; end the stream and begin another")
            self._ended = True
        elif message is not None:
            self._waiting.append(message)
            self._longest = max(self._longest, len(message) / SAMPLE_RATE)
            seconds = sum(map(len, self._waiting)) / SAMPLE_RATE
            if seconds > LONGEST_QUEUE:
                raise ClientError(
                    f"{seconds:.1f} s of sound wait, more than {LONGEST_QUEUE:g} s: it comes faster than it is spoken, "
                    "or this machine does not keep up; begin again"
                )
        self._news.set()

    async def _move(self, live: Live) -> None:
        """Turn the sound that waits into motion that waits."""
        ended = False
        while not ended:
            await self._news.wait()
            self._news.clear()
            if sum(map(len, self._waiting)) < min(live.missing, SAMPLE_RATE) and not self._ended:
                continue  # no hop yet: not worth a worker's turn
            pieces, self._waiting, ended = self._waiting, [], self._ended
            if pieces and len((motion := await self._work(live.move, torch.cat(pieces))).landmarks):
                self._moved.put_nowait(motion)
        self._last = await self._work(live.finish)
        self._moved.put_nowait(None)

    async def _paint(self, socket: Any, live: Live) -> None:
        """Show the motion that waits, or, where it is too much, the newest of it; the stream's end is always shown."""
        ended = False
        while not ended:
            waiting = [await self._moved.get()]
            while not self._moved.empty():
                waiting.append(self._moved.get_nowait())
            ended = waiting[-1] is None
            if parts := [motion for motion in waiting if motion is not None]:
                await self._show(socket, live, reduce(LiveMotion.join, parts))
        assert self._last is not None
        await self._show(socket, live, self._last, last=True)
        await _tell(socket, {"type": "end"})

    async def _show(self, socket: Any, live: Live, motion: LiveMotion, last: bool = False) -> None:
        behind = len(motion.landmarks) / live.fps
        newest = live.hop * max(1, math.ceil(self._longest * live.fps / live.hop))
        at_most = newest if behind > PATIENCE + self._longest and not last else None
        first, pictures = await self._work(_pictures, live, motion, at_most)
        if first > motion.start:
            message = {"type": "slow", "skipped": first - motion.start, "behind": round(float(behind), 2)}
            await _tell(socket, message)
        for number, picture in enumerate(pictures, first):
            await _sent(socket.send_bytes(number.to_bytes(4, "little") + picture))

    async def _work(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._workers, function, *arguments)

    async def _message(self, socket: Any, longest: float) -> Tensor | dict[str, Any]:
        try:
            async with asyncio.timeout(longest):
                message = await socket.receive()
                while message.get("bytes") == b"":  # says nothing, and keeps nobody's place
                    message = await socket.receive()
        except TimeoutError:
            raise ClientError(
                f"nothing came for {longest:g} s: send silence while nobody speaks, or begin again"
            ) from None
        if message["type"] == "websocket.disconnect":
            raise _GoneError
        if message.get("text") is not None:
            return _settings(message["text"])
        return _samples(message["bytes"])


def _settings(text: str) -> dict[str, Any]:
    """Read a client's settings, or its end."""
    try:
        settings = json.loads(text) if len(text) <= LONGEST_SETTINGS else None
    except (ValueError, RecursionError):  # the latter of ten thousand brackets
        settings = None
    if not isinstance(settings, dict):
        raise ClientError(
            f'text must be JSON of {LONGEST_SETTINGS} characters at most: settings such as {{"emotion": "happy"}}, or '
            '{"end": true}'
        )
    for name, value in settings.items():
        if name != "end" and (name not in SETTINGS or not isinstance(value, SETTINGS[name])):
            raise ClientError(f"settings may be {', '.join(SETTINGS)}; got {name}={value!r}"[:200])
    return settings


def _samples(message: bytes) -> Tensor:
    """Turn a client's 16-bit sound into floats."""
    if len(message) % 2 or len(message) > 2 * LONGEST_PIECE * SAMPLE_RATE:
        raise ClientError(
            f"sound must come as 16-bit mono at {SAMPLE_RATE} Hz, at most {LONGEST_PIECE:g} s a message; "
            f"got {len(message)} bytes"
        )
    return torch.from_numpy(np.frombuffer(message, "<i2").astype(np.float32) / 32768)


def _pictures(live: Live, motion: LiveMotion, at_most: int | None) -> tuple[int, list[bytes]]:
    """Paint a motion; return the number of the first frame that was not skipped, and all of them as JPEG."""
    from PIL import Image

    painted, pictures = live.paint(motion, at_most), []
    for frame in painted.frames.numpy():
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=QUALITY)
        pictures.append(buffer.getvalue())
    return painted.start, pictures


async def _tell(socket: Any, message: dict[str, Any]) -> None:
    """Send a message, and close after an error or the end."""
    await _sent(socket.send_json(message))
    if message["type"] in ("error", "end"):
        await _sent(socket.close(1008 if message["type"] == "error" else 1000))


async def _sent(sending: Awaitable[None]) -> None:
    """Wait until something is sent; where that fails, or is not taken for as long as SILENCE, the client has gone."""
    from starlette.websockets import WebSocketDisconnect

    try:
        async with asyncio.timeout(SILENCE):
            await sending
    except (RuntimeError, OSError, WebSocketDisconnect) as error:  # the servers' and starlette's answers
        raise _GoneError from error


async def _excuse(socket: Any, error: Exception) -> None:
    """Tell a client what it did wrong, or that the server failed: the log says how."""
    said = "this server failed while it made the face, and its log says why; begin again"
    if isinstance(error, ClientError):
        said = one_line(error, 300).encode(errors="replace").decode()
    else:
        _LOG.error("live: a client's stream failed", exc_info=error)
    with suppress(_GoneError):
        await _tell(socket, {"type": "error", "message": said})


def serve(
    pipeline: TalkingHeadPipeline,
    image: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    **options: Any,
) -> None:
    """Run the server until it is interrupted; see `make_server`.

    Args:
        pipeline: whose networks are used.
        image: the portrait.
        host: address to listen at; the default is reachable from this machine alone.
        port: TCP port; 0: any free one.
        options: see `make_server`.
    """
    app = make_server(pipeline, image, host=host, **options)
    import uvicorn

    limits: dict[str, Any] = {"ws_max_size": 1 << 16, "ws_max_queue": 32, "timeout_graceful_shutdown": 5}
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
        except OSError as error:
            raise OSError(
                f"cannot listen at {host}:{port} ({error.strerror}); choose another --port or --host"
            ) from error
        shown = f"[{host}]" if ":" in host else host
        print(f"talkhead live: http://{shown}:{listening.getsockname()[1]}", flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning", **limits)).run(sockets=[listening])
