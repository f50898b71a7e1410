"""Another sound's lips on a tracked face: where the mouth's points go when everything else stays.

With F(t) a frame's landmarks and M(t) the similarity that takes the face at rest, R, to its nose and eyes, the mouth
in the head's own coordinates is O(t) = M(t)^-1 F(t). What the landmark net hears in the video's own sound explains the
speech in it, d_old(t). What is left, O - d_old, is of two kinds. Its place, c(t), the mean of the upper lip's outline,
is that of a head that nods: the similarity knows nothing of depth. Its shape, averaged over a third of a second, is how
this person holds the mouth (a smile, a turned head): S(t) = c(t) + average of O - d_old - c. The new mouth is
M(t) (S(t) + d_new(t)).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from talkhead.dubbing.face_track import FaceTrack
from talkhead.face.frame import face_size
from talkhead.face.mouth_gate import close_mouth
from talkhead.face.points import LOWER_JAW, MOUTH, RIGID, UPPER_LIP
from talkhead.face.similarity import fit_similarity
from talkhead.metrics.mouths import mouth_opening
from talkhead.nets.landmark import LandmarkNet

HOLD_SECONDS = 0.16
"""Standard deviation of the average that tells how the mouth is held from what it says."""

_WEIGHT = torch.zeros(68, 1)
_WEIGHT[LOWER_JAW] = 1
_WEIGHT[[LOWER_JAW.start, LOWER_JAW.stop - 1]] = 0.5
_WEIGHT[MOUTH] = 1


def resting_face(track: FaceTrack) -> Tensor:
    """Return the (68, 2) px of the frame whose mouth is the most closed, with the lips brought together."""
    points = track.landmarks[track.shown]
    return close_mouth(points[(mouth_opening(points) / face_size(points)).argmin()])


def heard_motion(net: LandmarkNet, speech: Tensor, rest: Tensor, emotion: Tensor, fps: float) -> Tensor:
    """Return (T, 68, 2) px of ``rest``: what a recording moves in it, the head held still."""
    sound, face, feeling = (tensor.to(net.device) for tensor in (speech, rest, emotion))
    moved = net.generate(sound, face, feeling, fps, idle=0.0).cpu()
    return fit_similarity(moved[:, RIGID], rest[RIGID, :])(moved) - rest


def new_lips(track: FaceTrack, order: Tensor, rest: Tensor, said: Tensor | None, to_say: Tensor, fps: float) -> Tensor:
    """Return the (T', 68, 2) px landmarks of the frames ``order`` with another sound's mouth; NaN without a face.

    Args:
        track: the face in the video's T frames.
        order: (T',) which frame is shown when.
        rest: (68, 2) px the face at rest.
        said: (T, 68, 2) from `heard_motion` of the video's own sound; None: it has none.
        to_say: (T', 68, 2) from `heard_motion` of the new sound.
        fps: frames per second.
    """
    in_head = fit_similarity(track.landmarks[:, RIGID], rest[RIGID, :])(track.landmarks)
    held = rest.expand(len(track), -1, -1).clone()
    if said is not None:
        for run in track.runs():
            left = in_head[run] - said[run]
            place = left[:, UPPER_LIP].mean(1, keepdim=True)
            held[run] = place + _average(left - place, HOLD_SECONDS * fps)
    shown = track.landmarks[order]
    mouth = fit_similarity(rest[RIGID, :], shown[:, RIGID])(held[order] + to_say)
    return torch.lerp(shown, mouth, _WEIGHT)


def _average(values: Tensor, sigma: float) -> Tensor:
    """Average (T, ...) over time with a Gaussian of ``sigma`` frames, at the ends over what there is."""
    reach = max(1, round(3 * sigma))
    kernel = torch.exp(-(torch.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))[None, None]
    flat = torch.cat([values.flatten(1).T, torch.ones(1, len(values))])[:, None]
    smooth = F.conv1d(flat, kernel, padding=reach)[:, 0]
    return (smooth[:-1] / smooth[-1]).T.reshape(values.shape)
