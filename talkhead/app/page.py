"""The pipeline as a page in a browser (gradio): speak, edit the motion and paint again, score a video."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import wraps
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from talkhead.app import LARGEST_SIDE, LARGEST_WHOLE
from talkhead.app.bounds import check_seconds
from talkhead.app.names import OwnPagesOnly, own_names
from talkhead.app.score import score
from talkhead.data.clip import EMOTIONS
from talkhead.media.formats import open_writer
from talkhead.media.read import read_image
from talkhead.one_line import one_line
from talkhead.pipeline import TalkingHeadPipeline
from talkhead.pipeline.feeling import join_tracks
from talkhead.pipeline.motion import LandmarkSequence
from talkhead.pipeline.stages import Stream
from talkhead.speaker.folder import own_portrait, own_references
from talkhead.speaker.references import MOST, is_moving

HEARD = "as heard in the speech"
KEEP = ["download"]
"""Buttons on what the page shows; gradio's own choice has one that brings a face or a voice to a public forum."""
WAITING = 16
"""Requests that may wait; one more is told to come back."""
FASTEST = 120
"""Frames per second of a motion, at most: each is painted, and a motion's size is bounded before its rate is read."""
ONE_AT_A_TIME = {"concurrency_id": "making", "concurrency_limit": 1}
"""Of all buttons together: gradio's own limit is each button's."""
SWEEP = (600, 3600)
"""Seconds: how often files are swept, and how old they are then."""


def make_page(
    pipeline: TalkingHeadPipeline | Mapping[str, TalkingHeadPipeline],
    *,
    longest: float = 120.0,
    detector: Any = None,
    folder: str | Path | None = None,
) -> Any:
    """Return the page as a ``gradio.Blocks``.

    Args:
        pipeline: whose networks are used; several by name, to be chosen from in the page, the first at first.
        longest: seconds of sound or video that are taken.
        detector: what finds faces; None: the speaker's own.
        folder: for uploads and results, swept every ten minutes; None: a temporary one that goes with the process.

    Raises:
        ValueError: if ``longest`` is no number above 0.
        ImportError: if gradio is not installed.
    """
    if not isinstance(longest, Real) or not longest > 0:
        raise ValueError(f"longest must be above 0 s; got {longest!r}")
    if folder is None:
        folder = tempfile.mkdtemp(prefix="talkhead-app-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["GRADIO_TEMP_DIR"] = str(folder)  # read when a file is kept: uploads and results stay in one place
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio as gr
    except ImportError:
        raise ImportError("`talkhead app` needs gradio; run: pip install 'talkhead[ui]'") from None
    speakers = dict(pipeline) if isinstance(pipeline, Mapping) else {"bundled": pipeline}
    maker = _Maker(speakers, longest, detector, Path(folder))
    with gr.Blocks(title="talkhead", analytics_enabled=False, delete_cache=SWEEP) as page:
        gr.Markdown(
            "# talkhead\nOne portrait and one recording in, a talking-head video out. "
            "Use pictures of people who agree to it, and say that the video is generated."
        )
        with gr.Tab("Speak"):
            _speak_tab(gr, maker)
        with gr.Tab("Edit motion"):
            _edit_tab(gr, maker)
        with gr.Tab("Score video"):
            _score_tab(gr, maker)
    return page.queue(max_size=WAITING)


def run_page(
    page: Any, *, host: str = "127.0.0.1", port: int | None = None, share: bool = False, largest: str = "64mb",
    names: Iterable[str] = (), block: bool = True,
) -> tuple[Any, str]:  # fmt: skip
    """Serve the page until it is interrupted.

    Args:
        page: from `make_page`.
        host: address to listen at; the default is reachable from this machine alone.
        port: TCP port; 0: any free one; None: 7860 or the next free one.
        share: ask gradio for a public address; the page then answers to every name, for everybody may ask.
        largest: size of an upload, at most.
        names: host names that it goes by beside the host and this machine's; who asks by another is refused.
        block: wait until interrupted; else return while it runs.

    Returns:
        The page, and its local address.

    Raises:
        ValueError: if a name is none.
    """
    import gradio as gr
    from starlette.middleware import Middleware

    own = own_names(names, host)
    if port == 0:  # gradio would look for its page at this number
        with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as free:
            port = free.getsockname()[1]
    looks = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # nothing from the network
    _, address, _ = page.launch(
        server_name=host, server_port=port, share=share, max_file_size=largest, theme=looks, quiet=True,
        prevent_thread_lock=True, ssr_mode=False, show_error=True,
        app_kwargs={} if share else {"middleware": [Middleware(OwnPagesOnly, names=own)]},
    )  # fmt: skip
    if block:
        print(f"talkhead app: {address}", flush=True)
        page.block_thread()
    return page, address


class _Maker:
    """What the page's buttons do."""

    def __init__(
        self, speakers: Mapping[str, TalkingHeadPipeline], longest: float, detector: Any, folder: Path
    ) -> None:
        self.speakers, self.longest, self.detector, self.folder = speakers, longest, detector, folder
        self.portraits: dict[Path, Tensor] = {}
        for pipeline in speakers.values():
            with suppress(ValueError):  # a speaker without a picture of its own
                path, points = own_portrait(pipeline.folder, pipeline.info)
                self.portraits[path] = points

    def speak(
        self, speaker: str, image: str | None, audio: str | None, emotion: str, strength: float, mouth: float,
        pose: float, brow: float, blink: float, idle: float, frame: Literal["crop", "full"], size: float, seed: float,
        steps: float, further: list[str] | None, progress: Any,
    ) -> tuple[str, str, str, str]:  # fmt: skip
        """Return the video, the video with its landmarks, the motion and the plot of the emotion."""
        if not image or not audio:
            raise ValueError("give a portrait and a recording")
        check_seconds(audio, self.longest, "the recording")
        known = self._known(speaker, image, further)
        picture: tuple[Any, Any] = (image, None)
        if frame == "full" and "reference_landmarks" not in known:
            picture = _whole_picture(image)
        pieces = self.speakers[speaker].stream(
            picture[0], audio,
            emotion=None if emotion == HEARD else emotion, emotion_strength=strength, mouth=mouth,
            pose=pose, brow=brow, blink=blink, idle=idle, frame=frame, seed=int(seed or 0),
            num_inference_steps=int(steps), size=int(size) if size and frame == "crop" else None,
            detector=self.detector, **known,
        )  # fmt: skip
        return self._written(pieces, progress, picture[1])

    def repaint(
        self, speaker: str, image: str | None, motion: str | None, audio: str | None, mouth: float, pose: float,
        brow: float, blink: float, smoothing: float, further: list[str] | None, progress: Any,
    ) -> tuple[str, str, str, str]:  # fmt: skip
        """Paint an edited motion again."""
        if not image or not motion:
            raise ValueError("give a portrait, and the motion that was downloaded with its video")
        if audio:
            check_seconds(audio, self.longest, "the recording")
        sequence = LandmarkSequence.load(motion, self.longest * FASTEST)
        if sequence.fps > FASTEST:
            raise ValueError(f"the motion has {float(sequence.fps):g} frames/s; at most {FASTEST} are taken here")
        if sequence.duration > self.longest:
            raise ValueError(f"the motion lasts {sequence.duration:.0f} s; at most {self.longest:g} s are taken here")
        edited = sequence.gain(mouth=mouth, pose=pose, brow=brow, blink=blink)
        edited = edited.smooth(int(smoothing)) if smoothing > 5 else edited
        pieces = self.speakers[speaker].stream(
            image, audio or None, landmarks=edited, emotion="neutral", detector=self.detector,
            **self._known(speaker, image, further),
        )  # fmt: skip
        return self._written(pieces, progress)

    def score(self, video: str | None, progress: Any) -> list[list[str]]:
        """Return rows of name and value."""
        if not video:
            raise ValueError("give a video with a face and sound")
        check_seconds(video, self.longest, "the video", seen=True)
        progress(0.1, desc="following the face")
        detector = next(iter(self.speakers.values()))._detector(self.detector)
        return [[name, value] for name, value in score(video, detector).items()]

    def _known(self, speaker: str, image: str, further: list[str] | None) -> dict[str, Any]:
        """Return what is known of a portrait's face: a speaker's own needs no detector, and has his other pictures."""
        if further and len(further) > MOST:
            raise ValueError(f"{len(further)} further pictures are too many: choose {MOST} of them at most")
        for file in further or ():
            if is_moving(file):
                check_seconds(file, self.longest, f"'{Path(file).name}'", seen=True)
        given = Path(image).read_bytes()
        own = next((path for path in self.portraits if path.read_bytes() == given), None)
        if own is None:
            return {"references": further or None}
        his = own_references(own.parent) if own.parent == self.speakers[speaker].folder else None
        return {"reference_landmarks": self.portraits[own], "references": further or his}

    def _written(self, pieces: Stream, progress: Any, size: tuple[int, int] | None = None) -> tuple[str, str, str, str]:
        """Write what a stream gives into a folder of its own; its motion in px of a portrait of ``size``, if given."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        plain, marked, done, motions, tracks = folder / "talkhead.mp4", folder / "landmarks.mp4", 0, [], []
        with (
            pieces,
            open_writer(plain, pieces.fps, pieces.size, pieces.audio) as video,
            open_writer(marked, pieces.fps, pieces.size, pieces.audio) as dotted,
        ):
            for piece in pieces:
                for frame, points in zip(piece.frames, piece.landmarks, strict=True):
                    video.append(frame)
                    dotted.append(with_dots(frame, points))
                done += len(piece.frames)
                motions.append(piece.motion)
                tracks.append(piece.emotion_track)
                progress(done / pieces.num_frames, desc=f"{done} of {pieces.num_frames} frames")
        motion = folder / "motion.npz"
        whole = LandmarkSequence(torch.cat([m.landmarks for m in motions]), pieces.fps, motions[0].size)
        _of_size(whole, size or whole.size).save(motion)
        join_tracks(tracks).plot(folder / "emotion.png")
        return str(plain), str(marked), str(motion), str(folder / "emotion.png")


def with_dots(frame: Tensor, points: Tensor) -> Tensor:
    """Return an (H, W, 3) uint8 frame with its (68, 2) px landmarks as dots."""
    height, width = frame.shape[:2]
    reach = max(1, round(min(height, width) / 256))
    marked = frame.clone()
    for x, y in points.round().long().tolist():
        rows = slice(max(0, y - reach), max(0, min(height, y + reach)))
        columns = slice(max(0, x - reach), max(0, min(width, x + reach)))
        marked[rows, columns] = torch.tensor([0, 255, 120], dtype=torch.uint8)
    return marked


def _in_one_sentence(gr: Any, maker: _Maker, work: Callable[..., Any]) -> Callable[..., Any]:
    """Show the library's errors as they are: one sentence; of a file its name, for where it lies is the server's."""

    @wraps(work)
    def shown(*inputs: Any) -> Any:
        try:
            return work(*inputs)
        except (ValueError, OSError, ImportError) as error:
            said = re.sub(rf"{re.escape(str(maker.folder))}/(\w+/)*", "", one_line(error))
            raise gr.Error(said, duration=None, print_exception=False) from error

    return shown


def _speak_tab(gr: Any, maker: _Maker) -> None:
    with gr.Row():
        with gr.Column(min_width=280):
            speaker = _speaker(gr, maker)
            image = _portrait(gr, ["upload", "webcam"])
            audio = gr.Audio(type="filepath", sources=["upload", "microphone"], label="Speech", buttons=KEEP)
            further = _further(gr)
            emotion = gr.Dropdown([HEARD, *EMOTIONS], value=HEARD, label="Emotion")
            strength = gr.Slider(0, 2, 1, label="Strength of the expression")
            with gr.Accordion("Motion and picture", open=False):
                gains = [gr.Slider(0, 2, 1, label=name) for name in ("Mouth", "Head", "Brows", "Blinks", "Idle motion")]
                label = f"Frame (full: at most {LARGEST_WHOLE} px a side)"
                frame = gr.Radio(["crop", "full"], value="crop", label=label)
                size = gr.Number(0, precision=0, minimum=0, maximum=LARGEST_SIDE, label="Side of the crop, px")
                seed = gr.Number(0, precision=0, label="Seed")
                steps = gr.Slider(1, 20, 1, step=1, label="Network calls per frame")
            button = gr.Button("Make the video", variant="primary", elem_id="speak")
            pairs = [(portrait, portrait.with_name("speech.flac")) for portrait in maker.portraits]
            if own := [[str(part) for part in pair] for pair in pairs if pair[1].is_file()]:
                gr.Examples(own, [image, audio], label="The speakers' own")
        with gr.Column(min_width=280):
            outputs = _outputs(gr)

    def speak(*inputs: Any, progress: Any = gr.Progress()) -> Any:  # noqa: B008  # gradio finds it there
        return maker.speak(*(*inputs, progress))

    inputs = [speaker, image, audio, emotion, strength, *gains, frame, size, seed, steps, further]
    button.click(_in_one_sentence(gr, maker, speak), inputs, outputs, api_name="speak", **ONE_AT_A_TIME)


def _edit_tab(gr: Any, maker: _Maker) -> None:
    with gr.Row():
        with gr.Column(min_width=280):
            speaker = _speaker(gr, maker)
            image = _portrait(gr, ["upload"])
            motion = gr.File(label="Motion (.npz)", file_types=[".npz"])
            label = "Speech, where the video is to have sound"
            audio = gr.Audio(type="filepath", sources=["upload"], label=label, buttons=KEEP)
            further = _further(gr)
            gains = [gr.Slider(0, 2, 1, label=name) for name in ("Mouth", "Head", "Brows", "Blinks")]
            smoothing = gr.Slider(1, 21, 1, step=2, label="Smoothing in frames (7 and more)")
            button = gr.Button("Paint again", variant="primary")
        with gr.Column(min_width=280):
            outputs = _outputs(gr)

    def repaint(*inputs: Any, progress: Any = gr.Progress()) -> Any:  # noqa: B008
        return maker.repaint(*(*inputs, progress))

    inputs = [speaker, image, motion, audio, *gains, smoothing, further]
    button.click(_in_one_sentence(gr, maker, repaint), inputs, outputs, api_name="repaint", **ONE_AT_A_TIME)


def _whole_picture(image: str) -> tuple[Tensor, tuple[int, int]]:
    """Read a picture, shrunk where it is larger than those who did not start the program may have it painted.

    Returns:
        (3, H, W) uint8, and the (height, width) in px that it had.
    """
    picture = read_image(image)
    height, width = picture.shape[1:]
    share = LARGEST_WHOLE / max(height, width)
    if share >= 1:
        return picture, (height, width)
    sides = [max(1, round(share * side)) for side in (height, width)]
    small = F.interpolate(picture[None].float(), sides, mode="bicubic", antialias=True)[0]
    return small.round().clamp(0, 255).to(torch.uint8), (height, width)


def _of_size(motion: LandmarkSequence, size: tuple[int, int]) -> LandmarkSequence:
    """Return a motion in px of the same picture at another (height, width)."""
    if size == motion.size:
        return motion
    grown = torch.tensor([size[1] / motion.size[1], size[0] / motion.size[0]])
    return LandmarkSequence((motion.landmarks + 0.5) * grown - 0.5, motion.fps, size)


def _score_tab(gr: Any, maker: _Maker) -> None:
    video = gr.Video(label="Video", sources=["upload"], height=320, buttons=KEEP)
    button = gr.Button("Score", variant="primary")
    table = gr.Dataframe(
        headers=["measure", "value"], label="Scores", interactive=False, wrap=True, column_widths=["40%", "60%"]
    )

    def judge(file: str | None, progress: Any = gr.Progress()) -> Any:  # noqa: B008
        return maker.score(file, progress)

    button.click(_in_one_sentence(gr, maker, judge), [video], [table], api_name="score", **ONE_AT_A_TIME)


def _speaker(gr: Any, maker: _Maker) -> Any:
    names = list(maker.speakers)
    return gr.Dropdown(names, value=names[0], label="Speaker: whose networks", visible=len(names) > 1)


def _portrait(gr: Any, sources: list[str]) -> Any:
    """Return a field whose file comes as it was uploaded: gradio's own conversion loses opacity and 16-bit greys."""
    import pillow_heif

    pillow_heif.register_heif_opener()  # gradio looks at each picture with Pillow first, which alone knows no HEIC
    return gr.Image(type="filepath", image_mode=None, sources=sources, label="Portrait", height=260, buttons=KEEP)


def _further(gr: Any) -> Any:
    label = "Further pictures of the person, or a video: for teeth and lips"
    kinds = ["image", ".heic", ".heif", "video"]  # a system need not know that the two are pictures
    return gr.File(label=label, file_count="multiple", type="filepath", file_types=kinds, height=110)


def _outputs(gr: Any) -> list[Any]:
    shown = [
        gr.Video(label="Video", autoplay=True, height=360, elem_classes="made", buttons=KEEP),
        gr.Video(label="Its landmarks", height=240, buttons=KEEP),
        gr.File(label="Its motion, to edit and paint again"),
    ]
    gr.Markdown("The emotion over time")  # gradio's own label would lie on the plot
    plot = gr.Image(label="The emotion", show_label=False, type="filepath", height=240, buttons=KEEP)
    return [*shown, plot]
