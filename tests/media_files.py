"""Small recordings for the tests of the readers: by our writer, by PyAV alone, by the standard library."""

import struct
import wave
from fractions import Fraction

import av
import torch

from talkhead.media.read import VideoWriter


def tone(seconds, rate=16000, hz=440.0):
    return 0.5 * torch.sin(2 * torch.pi * hz * torch.arange(round(seconds * rate), dtype=torch.float64) / rate).float()


def numbered_frame(index, height=48, width=64):
    """A grey frame whose level tells its index."""
    return torch.full((3, height, width), 16 + 8 * index, dtype=torch.uint8)


def write_clip(path, num_frames=20, fps=Fraction(25), audio=None, **kwargs):
    with VideoWriter(path, fps, (48, 64), audio, **kwargs) as video:
        for index in range(num_frames):
            video.append(numbered_frame(index))
    return path


def write_wav(path, samples, rate):
    """Write WAV with the standard library: (S,) or (S, 2) int16."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())
    return path


def transcode(
    path, frames=None, rate=25, audio=None, audio_rate=44100, codecs=("mpeg1video", "mp2"), offsets=(0, 0), kind=None
):
    """Write a file with PyAV alone: a second writer for the reader's tests. Offsets are seconds of start time."""
    with av.open(str(path), "w", format=kind) as container:
        video = container.add_stream(codecs[0], rate=rate) if frames is not None else None
        sound = container.add_stream(codecs[1], rate=audio_rate, layout="stereo") if audio is not None else None
        if video is not None:
            video.width, video.height, video.pix_fmt = frames.shape[3], frames.shape[2], "yuv420p"
            video.bit_rate = 4_000_000
        for index, frame in enumerate(frames if frames is not None else []):
            picture = av.VideoFrame.from_ndarray(frame.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
            picture.pts, picture.time_base = index + round(offsets[0] * rate), 1 / Fraction(rate)
            container.mux(video.encode(picture))
        if audio is not None:
            samples = (audio.expand(2, -1) * 32767).to(torch.int16).T.reshape(1, -1).contiguous().numpy()
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="stereo")
            frame.sample_rate, frame.pts = audio_rate, round(offsets[1] * audio_rate)
            frame.time_base = Fraction(1, audio_rate)
            container.mux(sound.encode(frame))
            container.mux(sound.encode(None))
        if video is not None:
            container.mux(video.encode(None))
    return path


def atom(content, *names):
    """Return where an atom of an MP4 file begins, and its length: ``atom(content, "moov", "trak", "tkhd")``."""
    start, end = 0, len(content)
    for name in names:
        while True:
            length, found = struct.unpack(">I4s", content[start : start + 8])
            if found == name.encode():
                break
            start += length
            assert start < end, name
        start, end = start + 8, start + length
    return start - 8, end - start + 8


def write_levels(path, levels, codec="libx264", kind="yuv420p", last=None, **options):
    """Write grey frames at 25 per second; the last is to be shown for ``last`` s."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, kind
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        made = []
        for index, level in enumerate(levels):
            picture = torch.full((48, 64, 3), level, dtype=torch.uint8).numpy()
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = 40 * index, Fraction(1, 1000)
            made += stream.encode(frame)
        made += stream.encode(None)
        for packet in made:
            packet.duration = 40
        if last is not None:
            made[-1].duration = round(1000 * last)
        container.mux(made)
    return path


def without_sound(source, path):
    """Copy a video's pictures, and its track of sound without any sound in it."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        tracks = {stream.index: new.add_stream_from_template(stream) for stream in old.streams}
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = tracks[packet.stream.index]
                new.mux(packet)
    return path
