"""Speech to landmarks: two views of the sound, fused by a KAN, read by recurrent and attention layers.

    sound --- raw branch: volume, rhythm -------+
          --- content branch: what is said -----+--- KAN --- bi-directional GRU or LSTM --- attention --- displacements
    emotion, and the portrait where wanted -----+

The portrait's landmarks are written in the face's own coordinates, p = c + q M with c their centre and M the size and
the roll of the face; the net answers displacements d of q, and the result is c + (q + d) M. It therefore turns, scales
and moves with the face, f(s p R + b) = s f(p) R + b, whatever the picture's size, for whatever face.

Told the picture's size as well, the net also looks at the portrait: the shape q, and where in the picture the face
stands. A speaker it was trained on returns to his habitual pose from there; what it then says of a stranger is a guess,
so this is left out unless asked for.

After the paper's Sec. 2 and its ref. 11 (Vo-Thanh et al. 2024, "KAN-based fusion of dual-domain").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from talkhead.data.clip import EMOTIONS, SAMPLE_RATE
from talkhead.face.articulation import articulate
from talkhead.face.frame import describe_portrait, face_frame, summarize_portrait, to_face, turn
from talkhead.face.idle import idle_motion
from talkhead.face.mouth_gate import close_mouth, relax_mouth, speech_gate
from talkhead.nets.attention import RelativeAttention
from talkhead.nets.audio import LogMelEncoder, RawBranch
from talkhead.nets.kan import KANLayer
from talkhead.nets.speech_encoder import SpeechEncoder
from talkhead.nets.standardisation import Standardisation, rename_sums
from talkhead.ops.cross_fade import cross_faded
from talkhead.ops.precision import full_precision
from talkhead.speech.level import frame_centres, frame_decibels, num_frames_of, sample_at, speech_level
from talkhead.speech.recording import Recording

BRANCHES = ("raw", "content")

VIEWS = {"points": (describe_portrait, 140), "summary": (summarize_portrait, 22)}
"""How a portrait is described to a net that may look at it, and by how many numbers."""


class LandmarkNet(ModelMixin, ConfigMixin):
    """The landmark generator (see the module's docstring).

    The last layer starts at zero, so an untrained net answers "no motion". Emotions enter relative to ``neutral``, and
    start without effect: one never seen in training behaves like ``neutral``.

    Args:
        encoder: content encoder: ``logmel``, or the name or folder of a ``transformers`` speech encoder.
        branches: which of ``raw`` and ``content`` to use.
        fusion: ``kan``, or ``concat`` for a plain linear layer with GELU in its place.
        width: C, channels throughout.
        recurrent: ``gru`` or ``lstm``.
        layers: recurrent layers.
        attention_layers: attention layers after them.
        heads: attention heads.
        dropout: probability in all parts.
        spec_augment: hide random bands and stretches of the log-mel spectrogram in training.
        portrait_noise: standard deviation, in training, of the noise on the standardised portrait.
        portrait_view: ``none``, the net never looks at the portrait; ``points``, all coordinates; or ``summary``, the
            few numbers of ``summarize_portrait``.
        habits: ways back from the portrait to the habitual pose, each at its own pace.
        rate: frames per second at which the net itself thinks; results are interpolated to the frames asked for.
        freeze_encoder: keep a pretrained encoder as it is.
        encoder_seconds: length of the pieces that Whisper hears; None: 30 s (see ``SpeechStates``).
        encoder_config: filled in by the net for a pretrained encoder, so that a saved net needs nothing else to load.
        trained_on: emotions in the training data, filled in by training; None: unknown, taken for neutral alone.

    Raises:
        ValueError: if an argument is not among its choices.
        FileNotFoundError: if the encoder cannot be found.
    """

    @register_to_config
    def __init__(
        self,
        encoder: str = "logmel",
        branches: Sequence[str] = BRANCHES,
        fusion: str = "kan",
        width: int = 128,
        recurrent: str = "lstm",
        layers: int = 2,
        attention_layers: int = 1,
        heads: int = 4,
        dropout: float = 0.2,
        spec_augment: bool = True,
        portrait_noise: float = 0.2,
        portrait_view: str = "none",
        habits: int = 1,
        rate: float = 25.0,
        freeze_encoder: bool = True,
        encoder_seconds: float | None = None,
        encoder_config: dict[str, Any] | None = None,
        trained_on: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        # diffusers keeps the names of the arguments for the configuration: no module may bear one.
        _check_choices(branches, fusion, recurrent, portrait_view, habits)
        self.raw = RawBranch(width, dropout) if "raw" in branches else None
        self.content: nn.Module | None = None
        if encoder_seconds is not None and encoder == "logmel":
            raise ValueError("encoder_seconds is for Whisper; leave it out with encoder='logmel'")
        if "content" in branches and encoder == "logmel":
            self.content = LogMelEncoder(width, dropout=dropout, spec_augment=spec_augment)
        elif "content" in branches:
            speech = SpeechEncoder(encoder, width, encoder_config, freeze_encoder, encoder_seconds)
            self.register_to_config(encoder_config=speech.states.encoder.config.to_dict())
            self.content = speech
        # Half the width each, normalised, so that most values fall on the splines' grid.
        self.narrow = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width // 2), nn.LayerNorm(width // 2)) for _ in branches
        )
        if portrait_view != "none":
            numbers = VIEWS[portrait_view][1]
            self.standardize = Standardisation(numbers, limit=4.0, eps=1e-8)
            self.portrait = nn.Linear(numbers, 32, bias=False)
            self.habit = nn.Linear(numbers, habits * 136, bias=False)
            nn.init.zeros_(self.habit.weight)
            self.progress = nn.Linear(width, habits)
        self.emotion = nn.Linear(len(EMOTIONS), 32)
        nn.init.zeros_(self.emotion.weight)
        nn.init.zeros_(self.emotion.bias)
        inputs = width // 2 * len(branches) + 32
        self.fuse = (
            KANLayer(inputs, width, intervals=5, low=-2.5, high=2.5)
            if fusion == "kan"
            else nn.Sequential(nn.Linear(inputs, width), nn.GELU())
        )
        cell = {"gru": nn.GRU, "lstm": nn.LSTM}[recurrent]
        self.rnn = cell(
            width, width // 2, layers, batch_first=True, bidirectional=True, dropout=dropout if layers > 1 else 0.0
        )
        self.attention = nn.ModuleList(RelativeAttention(width, heads, dropout) for _ in range(attention_layers))
        self.drop = nn.Dropout(dropout)
        last = nn.Linear(width, 136)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.head = nn.Sequential(nn.LayerNorm(width), last)

    def forward(
        self,
        audio: Tensor,
        reference_landmarks: Tensor,
        emotion: Tensor,
        num_frames: int,
        level: Tensor | None = None,
        size: float | None = None,
    ) -> Tensor:
        """Predict the landmarks of a stretch of speech.

        Args:
            audio: (B, S) waveform at 16 kHz in [-1, 1]; it spans the frames exactly.
            reference_landmarks: (B, 68, 2) px: the face at rest.
            emotion: (B, 8) probabilities, or (B, T, 8), one for each frame.
            num_frames: T >= 1.
            level: (B,) speech level of the recording that the stretch is from (``speech_level``); None measures the
                stretch itself.
            size: width in px of the square picture that the portrait's landmarks lie in, to let the net look at the
                portrait of a speaker it was trained on; None makes the motion independent of the face.

        Returns:
            (B, T, 68, 2) px.

        Raises:
            ValueError: if a shape is not as above.
        """
        _check_shapes(audio, reference_landmarks, emotion, num_frames)
        centre, axes = face_frame(reference_landmarks)
        rest = to_face(reference_landmarks, (centre, axes))
        portrait = None if size is None else self.describe(reference_landmarks, size)
        moved = rest.unsqueeze(1) + self.displacements(audio, emotion, num_frames, level, portrait)
        return centre.unsqueeze(1) + turn(moved, axes.unsqueeze(1))

    def _fix_state_dict_keys_on_load(self, state_dict: Any) -> None:
        """Let ``from_pretrained`` read the statistics as they were called before 0.1.0."""
        super()._fix_state_dict_keys_on_load(state_dict)
        rename_sums(state_dict, "standardize.")

    def displacements(
        self,
        audio: Tensor,
        emotion: Tensor,
        num_frames: int,
        level: Tensor | None = None,
        portrait: Tensor | None = None,
        known: Tensor | None = None,
    ) -> Tensor:
        """Predict the motion alone.

        Args:
            audio: as in ``forward``.
            emotion: as in ``forward``.
            num_frames: as in ``forward``.
            level: as in ``forward``.
            portrait: (B, P) from ``describe``, or None.
            known: (B,) bool, which portraits the net may look at; None: all.

        Returns:
            (B, T, 68, 2) displacements in face sizes, in the face's own coordinates.
        """
        level = speech_level(audio) if level is None else level
        audio = audio / level.unsqueeze(-1)
        steps = max(1, round(audio.shape[-1] / SAMPLE_RATE * self.config.rate))
        seen = None if portrait is None else self._look(portrait, known)
        x = self._fused(audio, self._who(emotion, seen, steps), steps)
        with full_precision(x):  # cuDNN's LSTM would take float16 under any autocast
            x = x + self.drop(self.rnn(x.float())[0])
        for layer in self.attention:
            x = layer(x)
        # A tenth of the face's size is the order of what speech moves.
        motion = 0.1 * self.head(x)
        if seen is not None:
            # Where a speaker's habitual pose lies from here, times how far he has gone back to it.
            away = self.habit(seen).unflatten(-1, (-1, 136)) / self.config.habits**0.5
            motion = motion + 0.1 * self.progress(x).sigmoid() @ away
        if num_frames != steps:
            motion = sample_at(motion.mT, frame_centres(steps, num_frames, audio.device)).mT
        return motion.unflatten(-1, (68, 2))

    def describe(self, reference_landmarks: Tensor, size: float) -> Tensor:
        """Describe (B, 68, 2) px portraits in pictures ``size`` px wide as ``displacements`` takes them: (B, P)."""
        if self.config.portrait_view == "none":
            raise ValueError("this net was built without a view of portraits; leave size out, or train another one")
        return VIEWS[self.config.portrait_view][0](reference_landmarks, size)

    def stop_looking(self) -> None:
        """Keep the layers that look at the portrait as they are: no training reaches what is never used."""
        if self.config.portrait_view != "none":
            for layer in (self.portrait, self.habit, self.progress):
                layer.requires_grad_(False)

    def _look(self, portrait: Tensor, known: Tensor | None) -> Tensor:
        """Return the standardised (B, P) portraits, zero where the net may not look."""
        seen = self.standardize(portrait)
        if self.training:
            # Noise on the inputs of a linear map is ridge regression: two hundred clips have two hundred portraits.
            seen = seen + self.config.portrait_noise * torch.randn_like(seen)
        return seen if known is None else seen * known.unsqueeze(-1)

    def _who(self, emotion: Tensor, seen: Tensor | None, steps: int) -> Tensor:
        """Return (B, steps, 32): the emotion relative to ``neutral``, and the portrait."""
        neutral = (torch.arange(len(EMOTIONS), device=emotion.device) == EMOTIONS.index("neutral")).to(emotion)
        who = self.emotion(emotion - neutral)
        who = who.unsqueeze(1) if who.ndim == 2 else who
        who = sample_at(who.mT, frame_centres(who.shape[1], steps, who.device)).mT
        return who if seen is None else who + self.portrait(seen).unsqueeze(1)

    def _fused(self, audio: Tensor, who: Tensor, steps: int) -> Tensor:
        """Return (B, steps, C): the branches fused into one, with the emotion and the portrait."""
        heard = [branch(audio, steps) for branch in (self.raw, self.content) if branch is not None]
        heard = [narrow(self.drop(x)) for narrow, x in zip(self.narrow, heard, strict=True)]
        return self.fuse(torch.cat([*heard, who], dim=-1))

    def generate(
        self, audio: Tensor, reference_landmarks: Tensor, emotion: Tensor, fps: float = 25.0, **options: Any
    ) -> Tensor:
        """Predict the landmarks of a whole recording: ``stream``, joined. Returns (T, 68, 2) px."""
        return torch.cat(list(self.stream(audio, reference_landmarks, emotion, fps, **options)))

    @torch.no_grad()
    def stream(
        self,
        audio: Tensor | Recording,
        reference_landmarks: Tensor,
        emotion: Tensor,
        fps: float = 25.0,
        *,
        window_seconds: float = 4.0,
        context_seconds: float = 1.0,
        gate: bool = True,
        idle: float = 1.0,
        seed: int = 0,
        size: float | None = None,
        articulation: float = 1.0,
        habit: float = 1.0,
        closing: float = 0.0,
        restraint: float = 0.0,
    ) -> Iterator[Tensor]:
        """Predict the landmarks of a recording of any length, window by window, in constant memory.

        Windows are heard with ``context_seconds`` more on both sides and cross-faded over half of it on either side of
        their border. The net is put into evaluation mode.

        Args:
            audio: (S,) waveform at 16 kHz in [-1, 1], S >= 1, or a recording.
            reference_landmarks: (68, 2) px: the portrait's landmarks.
            emotion: (8,) probabilities, or (T, 8), one for each frame.
            fps: frames per second wanted.
            window_seconds: frames made at a time.
            context_seconds: sound heard before and after.
            gate: close the mouth where nobody speaks, the portrait's own first where it is open.
            idle: gain of the small head motion and blinks that speech does not tell (``idle_motion``); 0: none.
            seed: of that motion.
            size: as in ``forward``.
            articulation: gain of the mouth's swing, for voices that the net was not trained on (``articulate``).
            habit: gain of the head's mean motion, which is that of the speakers trained on.
            closing: opening in face sizes under which lips close twice as fast (``articulate``).
            restraint: how much less than it predicts the opening follows the loudness (``articulate``).

        Yields:
            (t, 68, 2) px. The frames add up to T = ceil(S / 16000 * fps): no sound is left without a picture.

        Raises:
            ValueError: if a shape is wrong, the audio is empty, or fps or a duration is not positive.
        """
        _check_stream(audio, reference_landmarks, emotion, fps, window_seconds)
        self.eval()
        total = num_frames_of(len(audio), fps)
        level = speech_level(audio)
        loudness = frame_decibels(audio, level, total)
        opened = speech_gate(loudness, fps) if gate else None
        rest = close_mouth(reference_landmarks) if gate else reference_landmarks
        done = 0
        heard = partial(self._hear, audio, rest, emotion, fps, level, size)

        def hear(low: int, high: int) -> Tensor:
            return articulate(heard(low, high), rest, articulation, habit, closing, restraint, loudness[low:high])

        for part in cross_faded(hear, total, round(window_seconds * fps), round(context_seconds * fps)):
            if opened is not None:
                part = relax_mouth(part, rest, opened[done : done + len(part)])
            if idle:
                part = idle_motion(part, fps, seed=seed, first_frame=done, head=idle, blink=min(idle, 1.0))
            yield part
            done += len(part)

    def _hear(
        self,
        audio: Tensor | Recording,
        reference_landmarks: Tensor,
        emotion: Tensor,
        fps: float,
        level: Tensor,
        size: float | None,
        low: int,
        high: int,
    ) -> Tensor:
        """Predict frames low..high-1 of a recording from their own sound."""
        first, last = round(low * SAMPLE_RATE / fps), round(high * SAMPLE_RATE / fps)
        part = audio[first:last]
        # The last frame may outlast the sound.
        part = F.pad(part, (0, last - first - len(part)))
        emotion = emotion if emotion.ndim == 1 else emotion[low:high]
        return self(part[None], reference_landmarks[None], emotion[None], high - low, level[None], size)[0]


def _check_choices(branches: Sequence[str], fusion: str, recurrent: str, portrait_view: str, habits: int) -> None:
    if not branches or len(set(branches)) != len(branches) or not set(branches) <= set(BRANCHES):
        raise ValueError(f"branches must be one or both of 'raw' and 'content'; got {tuple(branches)!r}")
    if fusion not in ("kan", "concat"):
        raise ValueError(f"fusion must be 'kan' or 'concat'; got {fusion!r}")
    if recurrent not in ("gru", "lstm"):
        raise ValueError(f"recurrent must be 'gru' or 'lstm'; got {recurrent!r}")
    if portrait_view not in ("none", *VIEWS):
        raise ValueError(f"portrait_view must be 'none', 'points' or 'summary'; got {portrait_view!r}")
    if habits < 1:
        raise ValueError(f"habits must be at least 1; got {habits}")


def _check_shapes(audio: Tensor, reference_landmarks: Tensor, emotion: Tensor, num_frames: int) -> None:
    batch = audio.shape[0] if audio.ndim else 0
    if audio.ndim != 2 or audio.shape[1] < 1:
        raise ValueError(f"audio must be (B, S) with S >= 1 samples at 16 kHz; got {tuple(audio.shape)}")
    if reference_landmarks.shape != (batch, 68, 2):
        raise ValueError(
            f"reference_landmarks must be ({batch}, 68, 2) landmarks in px; got {tuple(reference_landmarks.shape)}"
        )
    if emotion.shape not in ((batch, len(EMOTIONS)), (batch, num_frames, len(EMOTIONS))):
        raise ValueError(f"emotion must be ({batch}, {len(EMOTIONS)}) probabilities; got {tuple(emotion.shape)}")
    if num_frames < 1:
        raise ValueError(f"num_frames must be at least 1; got {num_frames}")


def _check_stream(
    audio: Tensor | Recording, reference_landmarks: Tensor, emotion: Tensor, fps: float, window_seconds: float
) -> None:
    if audio.ndim != 1:
        raise ValueError(f"audio must be one (S,) mono waveform at 16 kHz; got {audio.ndim} axes")
    for name, value in (("fps", fps), ("window_seconds", window_seconds)):
        if not value > 0:
            raise ValueError(f"{name} must be above 0; got {value}")
    _check_shapes(audio[:1][None], reference_landmarks[None], emotion[None], num_frames_of(len(audio), fps))
    if not reference_landmarks.isfinite().all():
        raise ValueError(
            "reference_landmarks must be finite landmarks in px; got NaN, so no face was found in the portrait"
        )
