"""Recordings as phones, browsers and cameras leave them: headers that say little, and endings that say too much."""

from pathlib import Path
from typing import Any

import av
import pytest
import torch
from media_files import tone, transcode
from safetensors.torch import load_file
from test_bounds import Pipe
from test_preprocess import render, run

from talkhead.app.bounds import check_seconds
from talkhead.data.manifest import read_manifest
from talkhead.media.read import probe, read_audio, read_video, write_audio
from talkhead.media.write import MediaWarning


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
        pipe = Pipe(root / "live.mkv")
        copy_streams(talk, pipe, format="matroska", options={"live": "1"})
        pipe.file.close()
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


@pytest.mark.parametrize("name", ["talk.MTS", "talk.m2ts", "talk.ts", "talk.vob", "talk.3g2", "talk.mxf"])
def test_what_cameras_and_discs_call_a_video_is_one(name: str, tmp_path: Path) -> None:
    talk, root = tmp_path / "talk.mp4", tmp_path / "in"
    root.mkdir()
    render(talk, 4)
    if name.endswith("3g2"):
        copy_streams(talk, root / name, format="3g2")
    else:
        kind = {"vob": "vob", "mxf": "mxf"}.get(name[-3:], "mpegts")
        sound = "pcm_s16le" if kind == "mxf" else "ac3"  # as AVCHD, Blu-ray and DVD have it
        frames, codecs = read_video(talk)[0], ("mpeg2video", sound)
        transcode(root / name, frames, 25, tone(0.2, 48000)[None], 48000, codecs, kind=kind)
    assert run(root, tmp_path / "cache").failed == []
    (entry,) = read_manifest(tmp_path / "cache")
    assert entry["name"] == "talk" and 4 <= entry["frames"] <= 6  # muxers may let the last one last longer


SOUNDS = {
    "s.caf": ("caf", "pcm_s16le"),
    "s.mka": ("matroska", "pcm_s16le"),
    "s.au": ("au", "pcm_s16be"),
    "s.w64": ("w64", "pcm_s16le"),
    "s.webm": ("webm", "libopus"),
    "s.mp4": ("mp4", "aac"),
    "s.mts": ("mpegts", "mp2"),
}


@pytest.mark.parametrize("name", SOUNDS)
def test_a_sound_is_one_whatever_its_file_is_called(name: str, tmp_path: Path) -> None:
    kind, codec = SOUNDS[name]
    root = tmp_path / "in"
    root.mkdir()
    transcode(root / name, audio=tone(0.5, 48000)[None], audio_rate=48000, codecs=("", codec), kind=kind)
    assert run(root, tmp_path / "cache").failed == []
    (entry,) = read_manifest(tmp_path / "cache")
    assert entry["fps"] is None and ("its sound alone" in entry["reason"]) == (name in ("s.webm", "s.mp4", "s.mts"))
    kept = load_file(tmp_path / "cache/clips/s.safetensors")
    assert list(kept) == ["audio"] and len(kept["audio"]) == pytest.approx(8000, abs=1000)  # codecs fill their frames
    loudest = torch.fft.rfft(kept["audio"]).abs().argmax()
    assert loudest * 16000 / len(kept["audio"]) == pytest.approx(440, abs=5)


def test_the_sound_beside_a_file_without_picture_is_its_sound(tmp_path: Path) -> None:
    root = tmp_path / "in"
    root.mkdir()
    transcode(root / "s.mp4", audio=tone(0.5, 48000)[None], audio_rate=48000, codecs=("", "aac"))
    write_audio(root / "s.wav", torch.full((4000,), 0.5) * torch.tensor([1, -1]).repeat(2000))
    run(root, tmp_path / "cache")
    assert len(load_file(tmp_path / "cache/clips/s.safetensors")["audio"]) == 4000


def test_a_length_that_is_only_guessed_is_not_believed(tmp_path: Path) -> None:
    """A bare AAC stream, 5 s of a pause and 5 of noise: FFmpeg takes the pause's bitrate for the whole."""
    noise = 0.3 * torch.randn(5 * 48000, generator=torch.Generator().manual_seed(0)).clamp(-3, 3)
    bare, mp3 = tmp_path / "bare.aac", tmp_path / "whole.mp3"
    transcode(bare, audio=torch.cat([0 * noise, noise])[None], audio_rate=48000, codecs=("", "aac"), kind="adts")
    with av.open(bare) as guessed:
        assert guessed.duration > 15e6
    assert probe(bare).duration == 0
    assert len(read_audio(bare)) / 16000 == pytest.approx(10, abs=0.1)  # and warns of nothing
    check_seconds(bare, 10.5, "the speech")
    transcode(mp3, audio=noise[None], audio_rate=48000, codecs=("", "libmp3lame"))
    copy_streams(mp3, tmp_path / "bare.mp3", options={"write_xing": "0"})
    (tmp_path / "cut.mp3").write_bytes(mp3.read_bytes()[: mp3.stat().st_size // 2])
    assert probe(mp3).duration == pytest.approx(5, abs=0.1) and probe(tmp_path / "bare.mp3").duration == 0
    with pytest.warns(MediaWarning, match="cut off"):
        assert len(read_audio(tmp_path / "cut.mp3")) < 3 * 16000
