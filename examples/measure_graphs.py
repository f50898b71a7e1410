"""Hold a speaker's graphs to PyTorch: the largest difference, and the time of a call.

    python examples/measure_graphs.py --threads 2 --output outputs/graphs

Every graph gets the same random inputs as the network that it was made of. Times are medians of `--repeats` calls after
two that do not count, one process, `--threads` threads for PyTorch and onnxruntime alike, the three in turn within each
repeat.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch

from talkhead.speaker.folder import find_folder, load_parts
from talkhead.speaker.graphs import Graph, emotion_graph, landmark_graph, renderer_graph, write_graph

REAL_TIME = {"landmark": "4 s of motion", "emotion": "up to 8 s of sound", "renderer": "12 new frames"}


def runners(name: str, graph: Graph, folder: Path, threads: int) -> dict[str, tuple]:
    """Return for PyTorch, a torch.export program and onnxruntime a function without arguments that runs the graph."""
    import onnxruntime

    for ending in ("onnx", "pt2"):
        write_graph(graph, folder / f"{name}.{ending}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(folder / f"{name}.onnx", options, providers=["CPUExecutionProvider"])
    feed = {key: tensor.numpy() for key, tensor in graph.tensors().items()}
    program = torch.export.load(folder / f"{name}.pt2").module()
    return {
        "PyTorch": lambda: graph.module(*graph.inputs.values()),
        "torch.export": lambda: program(*graph.inputs.values()),
        "onnxruntime": lambda: torch.from_numpy(session.run(None, feed)[0]),
    }


@torch.no_grad()
def measure(name: str, graph: Graph, folder: Path, threads: int, repeats: int) -> list[str]:
    """Return the table's rows of one network."""
    ways = runners(name, graph, folder, threads)
    truth = ways["PyTorch"]()
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for repeat in range(repeats + 2):
        for way, run in ways.items():
            start = time.perf_counter()
            run()
            seconds[way] += [time.perf_counter() - start] if repeat >= 2 else []
    rows = []
    for way, run in ways.items():
        away = "" if way == "PyTorch" else f"{(run() - truth).abs().max().item():.1e}"
        rows.append(f"| {name} ({REAL_TIME[name]}) | {way} | {away} | {1000 * statistics.median(seconds[way]):.0f} |")
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speaker", default="bundled")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--output", type=Path, help="folder to keep the table in")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    landmark, emotion, renderer, _, info = load_parts(find_folder(args.speaker))
    graphs = {"landmark": landmark_graph(landmark), "renderer": renderer_graph(renderer, info.get("window", 16))}
    graphs |= {} if emotion is None else {"emotion": emotion_graph(emotion)}
    import onnxruntime

    lines = [
        f"{args.threads} threads, load {os.getloadavg()[0]:.1f}, {args.repeats} calls, torch {torch.__version__}, "
        f"onnxruntime {onnxruntime.__version__}, float32\n",
        "| network (a call makes) | run by | largest difference | ms a call |",
        "|---|---|---|---|",
    ]
    folder = Path(tempfile.mkdtemp())
    try:
        for name, graph in graphs.items():
            lines += measure(name, graph, folder, args.threads, args.repeats)
    finally:
        shutil.rmtree(folder)
    print("\n".join(lines))
    if args.output is not None:
        args.output.mkdir(parents=True, exist_ok=True)
        (args.output / "graphs.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
