"""How long a file is that does not say so; and that it is found out without decoding all of it."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import pytest
import torch
from media_files import numbered_frame

from talkhead.app import bounds
from talkhead.app.bounds import check_seconds
from talkhead.app.page import _Maker
from talkhead.media.read import probe, write_audio


def streamed_flac(path: Path, seconds: float) -> Path:
    """Write FLAC as a stream that was saved: its header's count of samples, 36 bits at byte 21.5, is zero."""
    write_audio(path, torch.zeros(round(seconds * 16000)))
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    path.write_bytes(content)
    assert probe(path).duration == 0
    return path


class Pipe:
    """What is written and cannot be gone back in."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("wb")
        self.write = self.file.write


def streamed_video(path: Path, frames: int) -> Path:
    """Write a silent video at 25 frames per second as browsers record: Matroska that says no length."""
    pipe = Pipe(path)
    with av.open(pipe, "w", format="matroska") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(frames):
            picture = numbered_frame(number % 20).permute(1, 2, 0).contiguous().numpy()
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    pipe.file.close()
    assert probe(path).duration == 0
    return path


@pytest.mark.parametrize("seconds", [4.0, 5.0])
def test_what_is_short_enough_passes(tmp_path: Path, seconds: float) -> None:
    check_seconds(streamed_flac(tmp_path / "s.flac", seconds), 5.0, "the recording")


@pytest.mark.parametrize("seconds", [5.1, 7.0])
def test_a_sound_whose_header_says_nothing_is_measured(tmp_path: Path, seconds: float) -> None:
    with pytest.raises(ValueError, match="the recording lasts more than 5 s, which its header does not say"):
        check_seconds(streamed_flac(tmp_path / "s.flac", seconds), 5.0, "the recording")


def test_no_more_is_decoded_than_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passed, decoded = [0.0], bounds.decoded

    def counted(*args: Any, **kwargs: Any) -> Iterator[Any]:
        for frame in decoded(*args, **kwargs):
            passed[0] += frame.samples / frame.sample_rate
            yield frame

    monkeypatch.setattr(bounds, "decoded", counted)
    monkeypatch.delattr(bounds, "iter_audio")  # which surveys the whole file before its first piece
    with pytest.raises(ValueError, match="more than 5 s"):
        check_seconds(streamed_flac(tmp_path / "s.flac", 300.0), 5.0, "the recording")
    assert passed[0] < 7


def test_of_a_video_that_is_seen_the_frames_count(tmp_path: Path) -> None:
    video = streamed_video(tmp_path / "v.mkv", 50)
    check_seconds(video, 2.0, "the video", seen=True)
    with pytest.raises(ValueError, match="the video lasts more than 1.9 s"):
        check_seconds(video, 1.9, "the video", seen=True)


def test_further_pictures_that_move_are_held_to_the_page_s_bound(tmp_path: Path) -> None:
    streamed_video(tmp_path / "v.mkv", 50).rename(tmp_path / "v")  # no ending tells that it is a video
    with pytest.raises(ValueError, match="'v' lasts more than 1.9 s"):
        _Maker._known(SimpleNamespace(longest=1.9), "anna", "a.png", [str(tmp_path / "v")])  # type: ignore[arg-type]


def test_a_header_that_says_it_is_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_audio(tmp_path / "s.wav", torch.zeros(9 * 16000))
    monkeypatch.delattr(bounds, "decoded")
    with pytest.raises(ValueError, match="the recording lasts 9 s; at most 5 s"):
        check_seconds(tmp_path / "s.wav", 5.0, "the recording")
