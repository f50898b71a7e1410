"""Write what a file's name asks for: MP4 and MOV, WebM, GIF, or a row of PNG pictures; opacity where it can be kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from talkhead.media.files import check_writable, picture_number, row_number, telling_of_full, temporary_name
from talkhead.media.write import VideoWriter

SUFFIXES = (".mp4", ".m4v", ".mov", ".webm", ".gif", ".png")


class FrameWriter(Protocol):
    """What every writer of frames does; see `VideoWriter`."""

    def __enter__(self) -> Self: ...  # noqa: D105
    def __exit__(  # noqa: D105
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    def append(self, frame: Tensor) -> None:
        """Add one (H, W, 3 or 4) uint8 frame."""


def open_writer(
    path: str | Path,
    fps: Fraction | float,
    size: tuple[int, int],
    audio: Tensor | Iterable[Tensor] | None = None,
    *,
    alpha: bool = False,
    preset: str = "medium",
) -> FrameWriter:
    """Return the writer that a file's name asks for; frames are appended one by one, in constant memory.

    * ``.mp4``, ``.m4v``, ``.mov``: H.264 and AAC, `VideoWriter`;
    * ``.webm``: VP9 and Opus, with the opacity where there is one;
    * ``.gif``: 256 colours chosen anew for each picture, no sound, times in hundredths of a second;
    * ``.png``: pictures, a name such as ``frames/%05d.png``, with the opacity where there is one, no sound.

    Args:
        path: target.
        fps: frames per second.
        size: (height, width) px of the frames that will come.
        audio: see `VideoWriter`; formats without sound leave it out.
        alpha: whether the frames have a fourth channel.
        preset: H.264's speed, see `VideoWriter`; the other formats have none.

    Raises:
        ValueError: if the name's ending is none of these, or the format cannot keep opacity.
        OSError: if the target cannot be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"output must end in one of {', '.join(SUFFIXES)}; got {str(path)!r}")
    if alpha and suffix not in (".webm", ".png"):
        raise ValueError(f"output must end in .webm or .png where frames are transparent; got {str(path)!r}")
    if suffix == ".webm":
        return WebMWriter(path, fps, size, audio, alpha=alpha)
    if suffix == ".gif":
        return GIFWriter(path, fps, size)
    return PNGWriter(path, size) if suffix == ".png" else VideoWriter(path, fps, size, audio, preset=preset)


class WebMWriter(VideoWriter):
    """Write a WebM that browsers play: VP9 (yuv420p, or yuva420p with the opacity) and Opus.

    Args:
        path: target, ``.webm``.
        fps: see `VideoWriter`.
        size: see `VideoWriter`.
        audio: see `VideoWriter`.
        alpha: frames have a fourth channel.
        crf: VP9's constant quality, 0 to 63; 24 is visually near lossless.
    """

    suffixes = (".webm",)
    container = "webm"
    sound = ("libopus", 48000)
    longest = 2**16

    def __init__(
        self,
        path: str | Path,
        fps: Fraction | float,
        size: tuple[int, int],
        audio: Tensor | Iterable[Tensor] | None = None,
        *,
        alpha: bool = False,
        crf: int = 24,
    ) -> None:
        super().__init__(path, fps, size, audio)
        self.codec, self.pix_fmt = "libvpx-vp9", "yuva420p" if alpha else "yuv420p"
        # Two cores encode 512 px in real time; b is the bitrate's ceiling, 0: none, which is what makes crf constant.
        self._options = {"crf": str(crf), "b": "0", "deadline": "realtime", "cpu-used": "6", "row-mt": "1"}
        self.source = "rgba" if alpha else "rgb24"


class GIFWriter(VideoWriter):
    """Write an animated GIF that loops; each picture has 256 colours of its own.

    Args:
        path: target, ``.gif``.
        fps: frames per second, at most 50: players slow down what is faster.
        size: (height, width) px.
    """

    suffixes = (".gif",)
    container = codec = "gif"
    pix_fmt = "pal8"
    longest = 2**16 - 2  # of the even ones

    def __init__(self, path: str | Path, fps: Fraction | float, size: tuple[int, int]) -> None:
        super().__init__(path, fps, size)
        if self.fps > 50:
            raise ValueError(f"fps must be at most 50 for a GIF; got {float(self.fps):g}: give another fps or format")
        self._options = {}
        self._palette = _palette_graph((self.size[0] + self.size[0] % 2, self.size[1] + self.size[1] % 2), self.fps)

    def _for_encoder(self, picture: np.ndarray, number: int) -> Any:
        import av

        shown = av.VideoFrame.from_ndarray(picture, format=self.source)
        shown.pts, shown.time_base = number, 1 / self.fps
        self._palette.push(shown)
        return self._palette.pull()


class PNGWriter:
    """Write each frame as a PNG picture, numbered from 1; they appear when all are written.

    As a video takes the place of the one before it, so does the row: pictures of the same name whose numbers are higher
    than the last one's are deleted once the new ones are in place. Whatever else the folder holds stays.

    Args:
        path: target with a place for the number, ``frames/%05d.png``; the folder must exist.
        size: (height, width) px.
    """

    def __init__(self, path: str | Path, size: tuple[int, int]) -> None:
        self.path, self.size = Path(path), (int(size[0]), int(size[1]))
        if picture_number(self.path) is None:
            raise ValueError(f"output: pictures need a name with a number in it, such as %05d.png; got {str(path)!r}")
        check_writable(self.path)
        self.frames_written = 0

    def __enter__(self) -> Self:
        """Make the temporary folder."""
        self._folder = temporary_name(self.path.with_name("frames"))
        self._folder.mkdir()
        return self

    def append(self, frame: Tensor) -> None:
        """Add one (H, W, 3 or 4) uint8 frame."""
        from PIL import Image

        if frame.dtype != torch.uint8 or tuple(frame.shape) not in [(*self.size, 3), (*self.size, 4)]:
            wanted, got = f"({self.size[0]}, {self.size[1]}, 3 or 4) uint8", f"{tuple(frame.shape)}, {frame.dtype}"
            raise ValueError(f"frame must be {wanted}; got {got}")
        self.frames_written += 1
        name = self._folder / (self.path.name % self.frames_written)
        with telling_of_full(self.path, self._folder):
            Image.fromarray(frame.cpu().numpy()).save(name, compress_level=3)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Move the pictures to their place, or delete them after an error."""
        try:
            if kind is None and not self.frames_written:
                raise ValueError(f"output: no frame was appended to {str(self.path)!r}; append at least one")
            if kind is None:
                pictures = sorted(self._folder.iterdir())
                if taken := [p.name for p in pictures if (self.path.parent / p.name).is_dir()]:
                    raise IsADirectoryError(f"output: {taken[0]!r} is a folder, and a picture was to have this name")
                for picture in pictures:
                    os.replace(picture, self.path.parent / picture.name)
                self._end_row()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _end_row(self) -> None:
        """Delete what a longer row of the same name left behind the last picture."""
        for picture in self.path.parent.iterdir():
            number = row_number(self.path, picture.name) or 0
            if number > self.frames_written and picture.is_file() and not picture.is_symlink():
                picture.unlink()


def _palette_graph(size: tuple[int, int], fps: Fraction) -> Any:
    """Return FFmpeg's filters that give each picture a palette of its own."""
    import av

    graph = av.filter.Graph()
    height, width = size
    source = graph.add_buffer(width=width, height=height, format=av.VideoFormat("rgb24"), time_base=1 / fps)
    split, palette = graph.add("split"), graph.add("palettegen", "stats_mode=single:reserve_transparent=0")
    use, sink = graph.add("paletteuse", "new=1:dither=sierra2_4a"), graph.add("buffersink")
    source.link_to(split)
    split.link_to(use, 0, 0)
    split.link_to(palette, 1, 0)
    palette.link_to(use, 0, 1)
    use.link_to(sink)
    graph.configure()
    return graph
