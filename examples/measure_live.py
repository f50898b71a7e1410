"""Measure the live server: a client that speaks in real time, for minutes.

    python examples/measure_live.py --minutes 10 --size 128 --output results

The latency of a frame runs from the moment its own sound has been sent whole to the moment its picture arrives. Drift
is the mean latency of the last minute less that of the first full one. Memory is the server's resident set; its
processor time, per second of speech, is that of all its threads.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

import talkhead
from talkhead.media.read import read_audio
from talkhead.speaker.folder import BUNDLED

PIECE = 320  # samples: 20 ms


def main() -> None:
    """Start a server, speak to it, and write what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--look-ahead", type=float, default=0.12)
    parser.add_argument("--hop", type=int, default=3)
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--reference", help="further pictures, as of `talkhead serve`: `speaker`, or a file")
    parser.add_argument("--audio", help="speech to repeat (the bundled speaker's)")
    parser.add_argument("--output", required=True, type=Path)
    args = parser.parse_args()
    command = [sys.executable, "-m", "talkhead", "serve", "--port", str(args.port), "--size", str(args.size)]
    command += ["--look-ahead", str(args.look_ahead), "--hop", str(args.hop)]
    command += ["--reference", args.reference] if args.reference else []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            print(server.stdout.readline().strip())
            sound = read_audio(args.audio or BUNDLED / "speech.flac")
            seen = asyncio.run(speak(args.port, sound, args.minutes * 60, server.pid))
        finally:
            server.terminate()
    report = summary(**seen) | {
        "size": args.size, "reference": args.reference, "look ahead": args.look_ahead, "hop": args.hop,
        "minutes": args.minutes,
        "cores": len(os.sched_getaffinity(0)), "load before": os.getloadavg()[2],
        "torch": torch.__version__, "talkhead": talkhead.__version__,
    }  # fmt: skip
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "live.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


async def speak(port: int, sound: torch.Tensor, seconds: float, pid: int) -> dict:
    """Send sound as fast as it is spoken; return arrival times and what else was said."""
    import websockets

    pcm = (sound * 32767).round().to(torch.int16).numpy()
    sent, arrived, skipped, memory = [], {}, 0, []
    for _ in range(300):
        try:
            socket = await websockets.connect(f"ws://127.0.0.1:{port}/live", max_size=1 << 22)
            break
        except OSError:
            await asyncio.sleep(0.2)
    await socket.send('{"seed": 0}')
    assert json.loads(await socket.recv())["type"] == "start"
    begun, used = time.perf_counter(), processor_seconds(pid)

    async def send() -> None:
        for number in range(int(seconds * 16000 / PIECE)):
            place = np.arange(number * PIECE, (number + 1) * PIECE) % len(pcm)
            await asyncio.sleep(max(0, begun + (number + 1) * PIECE / 16000 - time.perf_counter()))
            await socket.send(pcm[place].tobytes())
            sent.append(time.perf_counter())
            if number % 500 == 0:
                memory.append(resident(pid))
        await socket.send('{"end": true}')

    sending = asyncio.create_task(send())
    while True:
        message = await socket.recv()
        if isinstance(message, bytes):
            arrived[int.from_bytes(message[:4], "little")] = time.perf_counter()
            continue
        message = json.loads(message)
        skipped += message.get("skipped", 0)
        if message["type"] in ("end", "error"):
            break
    await sending
    used = (processor_seconds(pid) - used) / seconds
    return {"sent": sent, "arrived": arrived, "skipped": skipped, "memory": memory, "used": used, "last": message}


def resident(pid: int) -> float:
    """Return a process' resident set in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def processor_seconds(pid: int) -> float:
    """Return the processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def summary(sent: list, arrived: dict, skipped: int, memory: list, used: float, last: dict) -> dict:
    """Return percentiles of the latency in ms, and the rest."""
    whole = len(sent) // 2  # frames of 40 ms, two pieces each
    latency = {n: 1e3 * (at - sent[2 * n + 1]) for n, at in arrived.items() if n < whole - 20}
    values = np.array([latency[n] for n in sorted(latency)])
    minute = min(1500, len(values) // 3)
    return {
        "first frame": values[0],
        "p50": float(np.percentile(values, 50)),
        "p95": float(np.percentile(values, 95)),
        "p99": float(np.percentile(values, 99)),
        "worst": float(values.max()),
        "frames": len(arrived),
        "skipped": skipped,
        "drift": float(values[-minute:].mean() - values[25 : 25 + minute].mean()),
        "processor seconds per second": round(used, 3),
        "memory, MB": [round(memory[len(memory) // 10], 1), round(memory[-1], 1)],
        "ended with": last,
    }


if __name__ == "__main__":
    main()
