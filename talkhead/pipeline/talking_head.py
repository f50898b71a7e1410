"""From one portrait and one recording to a talking-head video: inference only, one way in.

The data's way, each step a function below:

    read_portrait -> find_face -> fitting_portrait -+
    open_speech -> heard_keys ----------------------+-> move_landmarks -> draw_head -> wear_expressions
                                                            -> paint_windows -> FramePlacer -> Result
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor

from talkhead.data.clip import EMOTIONS, SAMPLE_RATE
from talkhead.devices import chosen_device
from talkhead.face.motion_gains import check_gain
from talkhead.face.mouth_bank import shrunk
from talkhead.finishing.placing import FramePlacer, check_output
from talkhead.heads.drawn_head import DrawnHead, draw_head
from talkhead.media.files import check_apart, new_folder
from talkhead.media.formats import open_writer
from talkhead.media.read import read_alpha
from talkhead.nets.conformer import ConformerClassifier
from talkhead.nets.head_motion import HeadMotionNet
from talkhead.nets.landmark import LandmarkNet
from talkhead.nets.renderer import Renderer
from talkhead.pipeline.feeling import check_plot, check_strength, emotion_keys, join_tracks, warn_unmoved
from talkhead.pipeline.hearing import heard_keys
from talkhead.pipeline.live import Live, begin_live
from talkhead.pipeline.motion import LandmarkSequence
from talkhead.pipeline.painting import paint
from talkhead.pipeline.stages import (
    Result,
    Stream,
    check_seed,
    choose_fps,
    count_frames,
    join_results,
    move_landmarks,
    open_speech,
    place_landmarks,
    read_motion,
    scale_motion,
)
from talkhead.pipeline.windows import set_timesteps
from talkhead.pipeline.worn import breathing, wear_expressions
from talkhead.progress import Count, progress_bar
from talkhead.renamed import renamed_arguments
from talkhead.schedulers import Scheduler, check_scheduler
from talkhead.speaker.folder import EXTRAS, find_folder, load_drawn_head, load_fine_renderer, load_parts, write_parts
from talkhead.speaker.references import bank_for, fitting_portrait, mouth_to_draw
from talkhead.speaker.schema import check_whole, check_windows
from talkhead.speaker.trained import check_emotions
from talkhead.tracking.portrait import find_face, read_portrait
from talkhead.tracking.track import LandmarkDetector, load_detector

DEFAULTS = {"fps": "25", "crop_scale": 1.5, "window": 16, "overlap": 4, "num_inference_steps": 4}
"""What a pipeline does where its ``pipeline.json`` does not say otherwise."""


class TalkingHeadPipeline:
    """One portrait and one recording in, a talking-head video out.

    Attributes:
        landmark_net: speech to landmarks.
        emotion_net: speech to emotion probabilities; None where the emotion is always given.
        renderer: landmarks to frames.
        scheduler: the diffusion process' steps.
        fine_renderer: paints large faces, those whose square has its pixels; None: ``renderer`` paints all.
        head_net: draws head, brows and lids; None: they sway and blink by rule (`idle_motion`).
        info: what ``pipeline.json`` says: fps, crop_scale, window, overlap, num_inference_steps, reference_landmarks.
        folder: where the pipeline was loaded from, or None.
    """

    def __init__(
        self,
        landmark_net: LandmarkNet,
        emotion_net: ConformerClassifier | None,
        renderer: Renderer,
        scheduler: Scheduler,
        info: Mapping[str, Any] | None = None,
        head_net: HeadMotionNet | None = None,
        fine_renderer: Renderer | None = None,
    ) -> None:
        self.landmark_net = landmark_net.eval()
        self.emotion_net = check_emotions(emotion_net).eval() if emotion_net is not None else None
        self.head_net = head_net.eval() if head_net is not None else None
        self.renderer, self.fine_renderer = renderer.eval(), fine_renderer
        self.scheduler = scheduler
        self.info = {**DEFAULTS, **(info or {})}
        self.folder: Path | None = None
        self._detectors: dict[str, LandmarkDetector] = {}

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = "bundled",
        device: str | torch.device = "auto",
        *,
        compile: bool = False,
        revision: str | None = None,
    ) -> Self:
        """Load a pipeline.

        Args:
            name: "bundled" for the speaker that comes with the package; a folder; or a Hugging Face hub id.
            device: where the networks go: "auto", the GPU where there is one, else the CPU; "cpu", "cuda", "cuda:1" ...
            compile: run the renderer's U-Net through ``torch.compile``: the first calls of each shape take tens of
                seconds, the later ones less time than before.
            revision: of a hub id: a branch, a tag or a commit; "someone/speaker@v1" says the same.

        Raises:
            FileNotFoundError: if there is no such folder, or the hub's copy cannot be had.
            ValueError: if the folder holds no pipeline or has no revisions, or there is no such device.
        """
        place = chosen_device(device)
        if revision is not None and (str(name) == "bundled" or Path(name).is_dir()):
            raise ValueError(f"revision={revision!r} is of a speaker on the hub; '{name}' is a folder: leave it out")
        folder = find_folder(name if revision is None else f"{name}@{revision}")
        parts, fine = load_parts(folder), load_fine_renderer(folder)
        pipeline = cls(*parts, head_net=load_drawn_head(folder), fine_renderer=fine).to(place)
        for renderer in (pipeline.renderer, fine) if compile else ():
            if renderer is not None:
                renderer.unet.compile()
        pipeline.folder = folder
        return pipeline

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that `from_pretrained` reads, with portrait, speech and card where the pipeline has them.

        Raises:
            FileExistsError: if there is something in ``folder``.
            OSError: if it cannot be written.
        """
        with new_folder(folder) as made:
            write_parts(
                made, self.landmark_net, self.emotion_net, self.renderer, self.scheduler, self.info, self.head_net,
                self.fine_renderer,
            )  # fmt: skip
            for name in EXTRAS:
                if self.folder is not None and (self.folder / name).is_file():
                    shutil.copyfile(self.folder / name, made / name)

    @property
    def scheduler(self) -> Scheduler:
        """What steps from one level to the next; one that windows cannot share is refused (`check_scheduler`)."""
        return self._scheduler

    @scheduler.setter
    def scheduler(self, scheduler: Scheduler) -> None:
        self._scheduler = check_scheduler(scheduler)

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.renderer.device

    def to(self, device: str | torch.device) -> Self:
        """Move the networks to ``device`` ("auto": the GPU where there is one) and return the pipeline."""
        device = chosen_device(device)
        nets: tuple[torch.nn.Module | None, ...] = (self.landmark_net, self.head_net, self.emotion_net)
        for net in (*nets, self.renderer, self.fine_renderer):
            if net is not None:
                net.to(device)
        return self

    def __call__(self, image: Any, audio: Any = None, **options: Any) -> Result:
        """Make the whole video in memory: the pieces of `stream`, joined; see there for arguments and errors."""
        return join_results(list(self.stream(image, audio, **options)))

    def generate_file(
        self,
        image: Any,
        audio: Any,
        output: str | Path,
        *,
        progress: bool | Count = True,
        preset: str = "medium",
        plot_emotion: str | Path | None = None,
        **options: Any,
    ) -> Path:
        """Write the video as it is made, in memory that does not grow with its pictures.

        Args:
            image: see `stream`.
            audio: see `stream`.
            output: an .mp4, .m4v, .mov, .webm or .gif file, or pictures (``frames/%05d.png``); it appears when it is
                complete, or not at all.
            progress: show a bar on stderr, or call this with (frames done, frames in all) after each frame.
            preset: H.264's speed, such as "veryfast"; see `VideoWriter`.
            plot_emotion: a .png, .svg or .pdf file of the emotion over time; see `EmotionTrack.plot`.
            options: see `stream`.

        Returns:
            ``output``.

        Raises:
            ValueError, FileNotFoundError: as `stream`; and if ``output`` or the plot is one of the files that are
                read, the plot is one of those that ``output`` writes, or its name has another ending.
            OSError: if ``output`` or the plot cannot be written; this is found out before the work begins.
        """
        read = {"image": image, "audio": audio}
        read |= {"landmarks": options.get("landmarks"), "reference": options.get("references")}
        check_apart(output, **read)
        if plot_emotion is not None:
            check_plot(plot_emotion)
            check_apart(plot_emotion, **read)
            check_apart(output, plot=plot_emotion)
        alpha = bool(options.get("transparent"))
        # This opens nothing, and refuses what it could not write.
        open_writer(output, fps=25, size=(2, 2), alpha=alpha, preset=preset)
        pieces, tracks = self.stream(image, audio, **options), []
        with (
            pieces,
            open_writer(output, pieces.fps, pieces.size, pieces.audio, alpha=alpha, preset=preset) as video,
            progress_bar(pieces.num_frames, progress) as advance,
        ):
            for piece in pieces:
                if plot_emotion is not None:
                    tracks.append(piece.emotion_track)
                for number, frame in enumerate(piece.frames):
                    video.append(frame)
                    advance(piece.emotion_track.word(number))
        if plot_emotion is not None:
            join_tracks(tracks).plot(plot_emotion)
        return Path(output)

    @renamed_arguments(portrait_landmarks="reference_landmarks", emotion_scale="guidance_scale")
    def stream(
        self,
        image: Any,
        audio: Any = None,
        *,
        emotion: str | Mapping[str, float] | Tensor | Sequence[Any] | None = None,
        emotion_strength: float = 1.0,
        landmarks: Tensor | LandmarkSequence | str | Path | None = None,
        reference_landmarks: Tensor | None = None,
        num_inference_steps: int | None = None,
        seed: int = 0,
        fps: float | Fraction | None = None,
        sample_rate: int = SAMPLE_RATE,
        frame: Literal["crop", "full"] = "crop",
        size: int | None = None,
        transparent: bool = False,
        detector: str | LandmarkDetector | None = None,
        face: str | int = "largest",
        mouth: float = 1.0,
        pose: float = 1.0,
        brow: float = 1.0,
        blink: float = 1.0,
        idle: float = 1.0,
        guidance_scale: float = 1.0,
        window: int | None = None,
        overlap: int | None = None,
        start_timestep: int | None = None,
        windows_per_call: int | None = None,
        references: Any = None,
        teeth: float = 1.0,
    ) -> Stream:
        """Make the video piece by piece, in memory that does not grow with its pictures.

        Everything is checked, and the face found, before the first piece is asked for. The pieces depend on the
        arguments alone, not on when or how far they are consumed.

        Args:
            image: the portrait: a file, a PIL image, an (H, W, 3) uint8 array or a (3, H, W) uint8 tensor.
            audio: the speech: a sound or video file, or (S,) floats in [-1, 1]. None only where ``landmarks`` are
                given: a silent video.
            emotion: a name of `EMOTIONS`, 8 probabilities, or a mapping name -> probability; over time a text such as
                ``"0 neutral, 2.5 happy, 6 sad"`` or a list of pairs (seconds, any of these); None: heard in the speech,
                all along. Given ``landmarks`` are painted as they are, without an expression: where the renderer
                has not learnt the emotion either, a warning says so.
            emotion_strength: of the expression, in [0, 2]: 0 none, 1 that of a person who means it.
            landmarks: (T, 68, 2) px of the portrait's picture, or a `LandmarkSequence` or its .npz file: skip the
                generator. The sound must be as long, within one frame.
            reference_landmarks: (68, 2) px of the portrait's picture: skip the detector.
            num_inference_steps: network evaluations per frame; None: the pipeline's own number.
            seed: of the noise and of the small motions that speech does not tell.
            fps: frames per second; None: those of the landmark sequence, else the pipeline's (25).
            sample_rate: of ``audio`` where that is not a file.
            frame: "crop": the square around the face; "full": the portrait's whole picture, with the face moving in it.
            size: px, side of the crop; None: as large as the portrait has it, from the renderer's size up to 512.
            transparent: keep the opacity of the portrait's picture in the frames, which then have four channels.
            detector: "auto", "face-alignment", "dlib" or a `LandmarkDetector`; None: the one that the speaker was made
                with, where the pipeline says it, else "auto".
            face: which face of several: "largest", "center" or an index from the left.
            mouth: gain of the mouth's motion; 1 changes nothing. See `motion_gains`.
            pose: gain of the head's motion.
            brow: gain of the brows' motion.
            blink: gain of the eyelids' motion.
            idle: gain of what speech does not tell and ``seed`` draws: the motion of head and brows, and blinks; 0: the
                head moves as the landmark generator's mean does, and nobody blinks.
            guidance_scale: 1 follows the emotion, more exaggerates it at twice the cost.
            window: frames painted together; None: the pipeline's.
            overlap: frames shared by neighbouring windows; None: the pipeline's.
            start_timestep: how noisy the process' start is; None: the noise end.
            windows_per_call: windows painted in one network call, at most; None: 8 on a GPU, else 1 for each
                thread. Fewer need less memory.
            references: a further picture of the person, a video of him, or a list of them: up to 32 mouths that
                differ the most, for teeth and lips that the portrait does not show. "speaker": the pipeline's own, for
                its own speaker. None: the portrait alone. A reference's only face is taken, whatever ``face`` says.
            teeth: how much of an opened mouth's inside is drawn where no picture of the person shows one so wide, in
                [0, 1]; see `DrawnMouth`.

        Returns:
            The pieces, each a `Result`, in order.

        Raises:
            FileNotFoundError: if a file does not exist.
            ValueError: if an argument is out of range, a file cannot be read, or no face is found.
        """
        check_output(frame, size)
        check_seed(seed)
        options = self._window_options(window, overlap, num_inference_steps, start_timestep, windows_per_call)
        options |= {"seed": seed, "guidance_scale": guidance_scale}
        for name, gain in {"mouth": mouth, "pose": pose, "brow": brow, "blink": blink, "idle": idle}.items():
            check_gain(name, gain)
        check_gain("guidance_scale", guidance_scale)
        check_strength(emotion_strength)
        keys = None if emotion is None else emotion_keys(emotion)
        given = read_motion(landmarks)
        if given is not None and keys is not None:
            warn_unmoved(keys, self.renderer)
        rate = choose_fps(fps, given, self.info["fps"])
        speech = open_speech(audio, sample_rate, optional=given is not None)
        picture = read_portrait(image, transparent)
        alpha = read_alpha(image) if transparent else None
        if reference_landmarks is None:
            reference_landmarks = find_face(picture, self._detector(detector), face, image)
        scale, both = self.info["crop_scale"], (self.renderer, self.fine_renderer)
        shown = size if frame == "crop" else None
        portrait, renderer = fitting_portrait(picture, reference_landmarks, scale, *both, shown)
        own_face = portrait.face, portrait.reference_landmarks
        num_frames = count_frames(given, speech, portrait, rate)
        further = None
        if references is not None:
            found, seen = partial(self._detector, detector), (scale, portrait.crop.side)
            further = bank_for(references, self.folder, renderer.config, found, face, seen, own_face)
        options["bank"] = None if further is None else shrunk(further, renderer.config.size)
        keys = heard_keys(self.emotion_net, speech) if keys is None else keys
        times = torch.arange(num_frames, dtype=torch.float64) / float(rate)
        if given is None:
            told = keys.told_at(times, self.landmark_net, emotion_strength)
            sway = 0.0 if self.head_net is not None else idle
            moved = move_landmarks(self.landmark_net, speech, portrait, told, rate, sway, seed)
            if self.head_net is not None and idle:
                assert speech is not None
                feeling = keys.told_at(times, self.head_net, emotion_strength).reshape(-1, len(EMOTIONS)).mean(0)
                gains = {"pose": idle * pose, "brow": idle * brow, "blink": idle * blink}
                pose = brow = blink = 1.0
                face_points = portrait.reference_landmarks
                lay = DrawnHead(self.head_net, face_points, feeling, float(rate), gains, seed)
                moved = draw_head(lay, moved, speech)
        else:
            moved = place_landmarks(given, portrait)
        moved = scale_motion(moved, portrait, mouth=mouth, pose=pose, brow=brow, blink=blink)
        if given is None:
            breath = emotion_strength * breathing(speech, num_frames, rate, seed)
            moved = wear_expressions(moved, portrait.reference_landmarks, keys, self.landmark_net, breath, rate)
        told = keys.told_at(times, renderer, emotion_strength)
        painted = paint(renderer, self.scheduler, portrait, moved, told, options)
        speaker = self.folder, self.info.get("reference_landmarks")
        drawn = mouth_to_draw(speaker, *own_face, options["bank"], teeth, self.device)
        placer = FramePlacer(portrait, frame, size, alpha, self.device, drawn, further)
        return Stream(painted, portrait, speech, keys, rate, num_frames, placer)

    def live(self, image: Any, **options: Any) -> Live:
        """Begin a video whose sound is still to come; see `begin_live` for arguments and errors."""
        return begin_live(self, image, **options)

    def _window_options(
        self, window: int | None, overlap: int | None, steps: int | None, start: int | None, together: int | None
    ) -> dict[str, Any]:
        """Fill in the pipeline's own numbers for those not given, and check them."""
        check_whole(window=window, start_timestep=start)
        window = self.info["window"] if window is None else window
        overlap = min(self.info["overlap"], window // 2) if overlap is None else overlap
        steps = self.info["num_inference_steps"] if steps is None else steps
        check_windows(window, overlap, steps, together)
        set_timesteps(copy.deepcopy(self.scheduler), steps, start, "cpu")  # refuses what cannot be spaced
        options = {"window": window, "overlap": overlap, "num_inference_steps": steps, "start_timestep": start}
        return options | {"windows_per_call": together}

    def _detector(self, detector: str | LandmarkDetector | None) -> LandmarkDetector:
        """Load a detector once."""
        detector = self.info.get("detector", "auto") if detector is None else detector
        if not isinstance(detector, str):
            return detector
        if detector not in self._detectors:
            self._detectors[detector] = load_detector(detector, self.device)
        return self._detectors[detector]
