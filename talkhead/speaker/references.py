"""Further pictures of the portrait's person: the teeth and lips that one portrait does not show."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from talkhead.face.crop import Crop, crop_frames, face_crop, to_crop
from talkhead.face.frame import face_frame, to_face
from talkhead.face.light import in_light, light_between
from talkhead.face.mouth_bank import Bank, mouth_and_turn, shrunk
from talkhead.face.portrait import Portrait, crop_portrait
from talkhead.finishing.drawn_mouth import DrawnMouth
from talkhead.media.folders import PICTURES, VIDEO
from talkhead.media.read import MediaWarning, iter_frames, probe
from talkhead.metrics import head_pose
from talkhead.nets.renderer import Renderer
from talkhead.tracking.identity import can_describe_faces, describe_faces
from talkhead.tracking.portrait import read_portrait
from talkhead.tracking.track import LandmarkDetector

BANK = "bank.safetensors"
"""A speaker's own further pictures, in its folder."""

MOST = 32
"""How many pictures are kept: each frame takes the two that are most like it, so more are better and hardly dearer."""

FINEST = 1024
"""px, the largest side at which their detail is kept."""

TURNED = 25.0
"""Degrees, sideways or up and down, by which a head may be turned against the portrait's."""

OTHER = 0.6
"""Distance of two faces' descriptors beyond which they are of two people: that of dlib's authors."""

_SAME_PICTURE = 0.02
"""Face sizes within which one picture's points are found again; of 66 people no two are within 0.026."""

_NEARLY = 0.9
"""Share of a renderer's pixels that a face must have: at 240 px that of 256 px shows smiles 1.0 dB better."""

_ASKED = 4
"""Frames of a video of which it is asked whose they are."""

_LOOKED_AT = 60
"""Frames of a video in which a face is looked for: one detection is a matter of tens of milliseconds."""

_HELD = 2**30
"""Bytes of a video's frames that are held at a time, and how few they are at least: one of 4K has 25 MB."""
_FEWEST = 16


def read_references(
    references: Any,
    detector: LandmarkDetector,
    face: str | int,
    scale: float,
    size: int,
    portrait: tuple[Tensor, Tensor] | None = None,
) -> Bank:
    """Return further pictures of a person, cut as the portrait is, and in its light.

    Args:
        references: one picture (as for a portrait) or video of the person, or a list or tuple of them. Of many, those
            are kept whose mouths differ the most. Of a video, frames with the head turned away from the portrait's are
            left out.
        detector: finds the faces.
        face: which face of several; where a picture or video shows only one, that one.
        scale: side of the square relative to the landmarks' box.
        size: px, the pictures' side.
        portrait: (3, s, s) uint8 and (68, 2) px of it; None: nothing is held against it.

    Returns:
        (R, 3, size, size) uint8 and (R, 68, 2) px of them, R at most `MOST`.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if one cannot be read, there is no face in it, or its head is turned.
    """
    many = references if isinstance(references, list | tuple) else [references]
    names: list[str] = []
    faces: list[tuple[Tensor, Tensor]] = []
    for number, one in enumerate(many):
        named = f"'{one}'" if isinstance(one, str | Path) else f"picture {number}"
        found = _faces_in(one, detector, face, named)
        faces += found if portrait is None else _as_turned(found, portrait[1], named)
        names += [named] * (len(faces) - len(names))
    if not faces:
        raise ValueError("references must hold at least one picture or video of the person; got none")
    landmarks = torch.stack([points for _, points in faces])
    kept = differing_mouths(landmarks)
    if portrait is not None:
        _warn_of_others([faces[place] for place in kept], portrait, [names[place] for place in kept])
    crops = [face_crop(landmarks[place], scale) for place in kept]
    if portrait is not None:
        _warn_of_small(crops, size, [names[place] for place in kept])
    pictures = torch.stack([crop_frames(faces[place][0], crop, size) for place, crop in zip(kept, crops, strict=True)])
    points = torch.stack([to_crop(landmarks[place], crop, size) for place, crop in zip(kept, crops, strict=True)])
    return (pictures, points) if portrait is None else in_light_of((pictures, points), *portrait)


def bank_for(
    references: Any,
    folder: Path | None,
    config: Mapping[str, Any],
    detector: Callable[[], LandmarkDetector],
    face: str | int,
    crop: tuple[float, float],
    portrait: tuple[Tensor, Tensor],
) -> Bank:
    """Return further pictures of a portrait's person, in its light and as fine as it is.

    Args:
        references: as for `read_references`; "speaker": those of the speaker in ``folder``.
        folder: the speaker's, or None.
        config: the renderer's.
        detector: loads what finds faces, where one is needed.
        face: see `read_references`.
        crop: the crop's scale, and the side of the portrait's in px of its picture.
        portrait: (3, s, s) uint8 and (68, 2) px of it.

    Raises:
        FileNotFoundError, ValueError: as `read_references`; if the renderer takes no further pictures, or the speaker
            has none.
    """
    if not config["bank"]:
        raise ValueError("references: this pipeline's renderer looks at one portrait alone; leave them out")
    if isinstance(references, str) and references == "speaker":
        if folder is None or (bank := load_bank(folder)) is None:
            raise ValueError("references: this pipeline has no further pictures of its speaker; give pictures")
        return in_light_of(bank, *portrait)
    fine = min(max(round(crop[1]), config["size"]), FINEST)
    return read_references(references, detector(), face, crop[0], fine, portrait)


def fitting_renderer(plain: Renderer, fine: Renderer | None, side: float, shown: float | None) -> Renderer:
    """Return the finer renderer where both the portrait's square and what is shown have its pixels, or nearly.

    Args:
        plain: the speaker's.
        fine: that for large faces, or None.
        side: px of the portrait's square in its picture.
        shown: px of the square in the frames; None: as in the picture.
    """
    least = side if shown is None else min(side, shown)
    return fine if fine is not None and least >= _NEARLY * fine.config["size"] else plain


def fitting_portrait(
    picture: Tensor, landmarks: Tensor, scale: float, plain: Renderer, fine: Renderer | None, shown: float | None
) -> tuple[Portrait, Renderer]:
    """Return a face cut as the renderer that is to paint it sees it, and that renderer.

    Args:
        picture: see `crop_portrait`.
        landmarks: see there.
        scale: see there.
        plain: see `fitting_renderer`.
        fine: see there.
        shown: see there.

    Raises:
        ValueError: as `crop_portrait`.
    """
    portrait = crop_portrait(picture, landmarks, scale, plain.config["size"])
    renderer = fitting_renderer(plain, fine, portrait.crop.side, shown)
    if renderer is not plain:
        portrait = crop_portrait(picture, landmarks, scale, renderer.config["size"])
    return portrait, renderer


def in_light_of(bank: Bank, face: Tensor, landmarks: Tensor) -> Bank:
    """Bring further pictures of a person to the light of one.

    Once for each picture: from frame to frame, the brightness around the lips changes with them.

    Args:
        bank: (R, 3, S, S) uint8 pictures and their (R, 68, 2) px.
        face: (3, s, s) uint8 the portrait as the renderer sees it.
        landmarks: (68, 2) px of it.
    """
    pictures, points = shrunk(bank, face.shape[-1])
    light = light_between(pictures, points, face.to(pictures.device), landmarks.to(points))
    return in_light(*bank, light), bank[1]


def differing_mouths(landmarks: Tensor, most: int = MOST) -> list[int]:
    """Choose faces that differ in mouth or turn: the most open mouth first, then always the one furthest from those.

    Args:
        landmarks: (N, 68, 2) px.
        most: how many to choose.

    Returns:
        Their indices, at most ``most``.

    Example:
        >>> differing_mouths(torch.rand(9, 68, 2).sort(0).values, 4).__len__()
        4
    """
    shapes = mouth_and_turn(landmarks)
    chosen = [int(shapes[:, 0].argmax())]
    distance = torch.full_like(shapes[:, 0], torch.inf)
    while len(chosen) < min(most, len(shapes)):
        distance = torch.minimum(distance, (shapes - shapes[chosen[-1]]).norm(dim=-1))
        distance[chosen] = -1.0
        chosen.append(int(distance.argmax()))
    return chosen


def mouth_to_draw(
    speaker: tuple[Path | None, Any],
    face: Tensor,
    landmarks: Tensor,
    own: Bank | None,
    strength: float,
    device: torch.device | str,
) -> DrawnMouth | None:
    """Return what draws the mouth's inside where no picture of the person shows it; None where nothing is drawn.

    Args:
        speaker: a speaker's folder, and the (68, 2) px landmarks of its own portrait; each may be None.
        face: (3, s, s) uint8 the portrait as the renderer sees it.
        landmarks: (68, 2) px of it.
        own: further pictures of the portrait's person; None: none, and where the portrait is the speaker's own, those
            that the speaker brings, for his renderer was trained on such.
        strength: see `DrawnMouth`.
        device: where mouths are to be drawn.

    Raises:
        ValueError: if ``strength`` is out of range, or the speaker's pictures are damaged.
    """
    if not isinstance(strength, Real) or not 0 <= strength <= 1:
        raise ValueError(
            f"teeth must be in [0, 1], the share of an opened mouth's inside that is drawn; got {strength!r}"
        )
    if not strength:
        return None
    folder, rest = speaker
    if own is None and folder is not None and rest is not None:
        theirs = torch.as_tensor(rest, dtype=torch.float32, device=landmarks.device)
        apart = to_face(landmarks, face_frame(landmarks)) - to_face(theirs, face_frame(theirs))
        own = load_bank(folder) if apart.square().sum(-1).mean().sqrt() < _SAME_PICTURE else None
    shown = landmarks[None] if own is None else torch.cat((landmarks[None], own[1].to(landmarks)))
    return DrawnMouth(face.to(device), shown.to(device), strength)


def load_bank(folder: Path, size: int | None = None) -> Bank | None:
    """Load a speaker's own mouths; None where the folder has none.

    Args:
        folder: the speaker's.
        size: px, the renderer's; None: any.

    Raises:
        ValueError: if the file is damaged or holds something else.
    """
    path = folder / BANK
    if not path.is_file():
        return None
    try:
        tensors = load_file(path)
        pictures, landmarks = tensors["pictures"], tensors["landmarks"]
    except (SafetensorError, KeyError, OSError) as error:
        raise ValueError(f"pipeline: '{path}' is no bank of mouths ({error}); export the speaker again") from error
    size = (pictures.shape or (0,))[-1] if size is None else size
    count = pictures.shape[0] if pictures.ndim else 0
    right = pictures.shape == (count, 3, size, size) and landmarks.shape == (count, 68, 2) and 1 <= count <= 64
    if not right or pictures.dtype != torch.uint8 or not landmarks.isfinite().all():
        raise ValueError(
            f"pipeline: '{path}' must hold pictures (R, 3, {size}, {size}) uint8 and finite landmarks (R, 68, 2); got "
            f"{tuple(pictures.shape)} {pictures.dtype} and {tuple(landmarks.shape)}; export the speaker again"
        )
    return pictures, landmarks.float()


def _faces_in(one: Any, detector: LandmarkDetector, face: str | int, named: str) -> list[tuple[Tensor, Tensor]]:
    """Return the face of a picture, or those of a video, with their landmarks.

    ``face`` was chosen among those of the portrait; a picture with one face leaves no choice.
    """
    pictures = _pictures_of(one)
    found = _detected(pictures, detector, face)
    if not found and isinstance(face, int) and face > 0 and not _detected(pictures, detector, 1):
        found = _detected(pictures, detector, 0)
    if not found:
        which = "" if face == "largest" else f" ({face!r})"
        raise ValueError(
            f"references: no face{which} was found in {named} by the detector {detector.name}; "
            "give a picture or a video with a face seen from the front"
        )
    return found


def _pictures_of(one: Any) -> list[Tensor]:
    """Return the picture, or frames spread over the video."""
    if isinstance(one, str | Path) and is_moving(one):
        return _spread(iter_frames(one))
    try:
        return [read_portrait(one)]
    except (ValueError, FileNotFoundError) as error:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(re.sub("^image", "references", str(error))) from error


def is_moving(path: str | Path) -> bool:
    """Whether a file is read as a video: by its ending, or where that says nothing (``.gif``, none), by its content.

    Args:
        path: a picture or a video.
    """
    if (ending := Path(path).suffix.lower()) in VIDEO | PICTURES:
        return ending in VIDEO
    try:
        told = probe(path)
    except (ValueError, OSError):
        return False
    return told.fps is not None and told.num_frames != 1


def _detected(pictures: list[Tensor], detector: LandmarkDetector, face: str | int) -> list[tuple[Tensor, Tensor]]:
    """Return the pictures in which there is such a face, with its landmarks."""
    found = ((picture, detector(picture, face=face)) for picture in pictures)
    return [(picture, detection.landmarks) for picture, detection in found if detection is not None]


def _as_turned(faces: list[tuple[Tensor, Tensor]], own: Tensor, named: str) -> list[tuple[Tensor, Tensor]]:
    """Return those whose heads are turned as the portrait's is; refuse a file without one."""
    pose = head_pose(torch.stack([own, *(points for _, points in faces)]))
    away = torch.maximum((pose.yaw[1:] - pose.yaw[0]).abs(), (pose.pitch[1:] - pose.pitch[0]).abs())
    if away.min() > TURNED:
        raise ValueError(
            f"references: the head in {named} is turned {away.min():.0f} degrees away from the portrait's, and a mouth "
            f"seen from another side cannot be bent to it; give a picture within {TURNED:g} degrees, or leave it out"
        )
    return [one for one, angle in zip(faces, away.tolist(), strict=True) if angle <= TURNED]


def _warn_of_others(faces: list[tuple[Tensor, Tensor]], portrait: tuple[Tensor, Tensor], names: list[str]) -> None:
    """Warn of pictures that show another person, where the extra is installed that can tell."""
    if not can_describe_faces():
        return
    own = describe_faces(portrait[0][None], portrait[1][None])[0]
    asked = [place for place, name in enumerate(names) if names[:place].count(name) < _ASKED]
    others = {place: describe_faces(faces[place][0][None], faces[place][1][None])[0] for place in asked}
    for name in dict.fromkeys(names[place] for place, one in others.items() if (one - own).norm() > OTHER):
        warnings.warn(
            f"references: {name} seems to show another person than the portrait; leave it out if it does",
            MediaWarning,
            stacklevel=5,
        )


def _warn_of_small(crops: list[Crop], size: int, names: list[str]) -> None:
    """Warn of faces that have less than half the pixels a side that are to be shown."""
    for name in dict.fromkeys(name for name, crop in zip(names, crops, strict=True) if 2 * crop.side < size):
        warnings.warn(
            f"references: the face in {name} has less than half the portrait's pixels a side; where its mouth is shown "
            "the video will be softer: give a larger picture if there is one",
            MediaWarning,
            stacklevel=5,
        )


def _spread(frames: Iterable[Tensor]) -> list[Tensor]:
    """Keep at most 2 x 60 frames, evenly spread, of a video of unknown length: every n-th, n doubling as it goes on."""
    kept: list[Tensor] = []
    step = 1
    for number, frame in enumerate(frames):
        if number % step == 0:
            kept.append(frame)
        if len(kept) > max(min(2 * _LOOKED_AT, _HELD // frame.nbytes), _FEWEST):
            kept, step = kept[::2], 2 * step
    return kept[:: max(1, len(kept) // _LOOKED_AT)]
