"""Recordings as phones, browsers and cameras leave them: headers that say little, and endings that say too much."""

import io
from pathlib import Path
from typing import Any

import av
import pytest
from media_files import transcode
from test_preprocess import render, run

from talkhead.data.manifest import read_manifest
from talkhead.media.read import read_audio, read_video


class Pipe(io.RawIOBase):
    """A file that is written as it is recorded, whose header nobody comes back to."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def write(self, content: Any) -> int:
        return self._file.write(content)

    def writable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()


def copy_streams(source: Path, target: Any, kinds: tuple[str, ...] = ("video", "audio"), **options: Any) -> None:
    """Write a file's packets into another container, as they are."""
    with av.open(source) as given, av.open(target, "w", **options) as made:
        streams = {s.index: made.add_stream_from_template(s) for s in given.streams if s.type in kinds}
        for packet in given.demux():
            if packet.dts is not None and packet.stream.index in streams:
                packet.stream = streams[packet.stream.index]
                made.mux(packet)


@pytest.mark.parametrize("header", ["nothing", "first frames"])
def test_a_long_video_is_cut_whatever_its_header_says(header: str, tmp_path: Path) -> None:
    talk, plain, root = tmp_path / "talk.mp4", tmp_path / "plain.mkv", tmp_path / "in"
    root.mkdir()
    render(talk, 30)
    if header == "nothing":  # as a browser records
        copy_streams(talk, Pipe(root / "live.mkv"), format="matroska", options={"live": "1"})
    else:
        transcode(plain, read_video(talk)[0], 25, read_audio(talk)[None], 16000, ("mpeg4", "mp2"))
        copy_streams(plain, root / "live.mp4", options={"movflags": "frag_keyframe"})
    with av.open(next(root.iterdir())) as made:
        told = made.streams.video[0].frames, made.duration
        assert told == (0, None) if header == "nothing" else 0 < told[0] < 20
    run(root, tmp_path / "cache", segment_seconds=1.0, fps=10)
    entries = read_manifest(tmp_path / "cache")
    assert [e["name"] for e in entries] == ["live@000", "live@001"]
    assert all(6 <= e["frames"] <= 7 for e in entries)  # muxers may let the last one last a little longer
