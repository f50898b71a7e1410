"""Landmark sequences: files, gains, smoothing, retargeting."""

import io
import math
import zipfile
from fractions import Fraction

import numpy as np
import pytest
import torch
from conftest import POINTS

from talkhead.face.motion_gains import motion_gains, retarget
from talkhead.metrics import mouth_opening
from talkhead.pipeline.motion import LandmarkSequence


def turn(points: torch.Tensor, degrees: float, scale: float, shift: tuple[float, float]) -> torch.Tensor:
    """Rotate, scale and shift with a plain 2x2 matrix."""
    c, s = scale * math.cos(math.radians(degrees)), scale * math.sin(math.radians(degrees))
    return points @ torch.tensor([[c, s], [-s, c]]) + torch.tensor(shift)


@pytest.fixture
def reference_landmarks() -> torch.Tensor:
    return torch.rand(68, 2) * 60 + 30


@pytest.fixture
def sequence(reference_landmarks: torch.Tensor) -> LandmarkSequence:
    return LandmarkSequence(reference_landmarks + torch.randn(7, 68, 2), Fraction(30000, 1001), (128, 96))


def test_file_keeps_everything(sequence, tmp_path):
    path = tmp_path / "face.npz"
    sequence.save(path)
    again = LandmarkSequence.load(path)
    assert torch.equal(again.landmarks, sequence.landmarks)
    assert (again.fps, again.size) == (Fraction(30000, 1001), (128, 96))
    assert [p.name for p in tmp_path.iterdir()] == ["face.npz"]


def test_a_failed_write_leaves_the_old_file(sequence, tmp_path, monkeypatch):
    path = tmp_path / "face.npz"
    sequence.save(path)
    before = path.read_bytes()

    def broken(file, **arrays):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", broken)
    with pytest.raises(OSError, match="disk full"):
        sequence.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["face.npz"]


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04broken"])
def test_other_files_are_refused(content, tmp_path):
    path = tmp_path / "other.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="no landmark sequence"):
        LandmarkSequence.load(path)


def test_an_npz_of_something_else_is_refused(tmp_path):
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    np.savez(tmp_path / "objects.npz", fps=np.array([{}], dtype=object))
    np.save(tmp_path / "array.npy", np.zeros(3))
    for name in ("other.npz", "objects.npz", "array.npy"):
        with pytest.raises(ValueError, match="no landmark sequence"):
            LandmarkSequence.load(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no file"):
        LandmarkSequence.load(tmp_path / "absent.npz")


def npz(path, landmarks, packed=zipfile.ZIP_DEFLATED):
    """Write a sequence's three arrays with the standard library, ``landmarks`` as it stands."""
    with zipfile.ZipFile(path, "w", packed) as archive:
        for name, values in (("fps", [25, 1]), ("size", [64, 64])):
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, np.array(values))
        archive.writestr("landmarks.npy", landmarks)
    return path


def told(shape, kind="<f4", content=b""):
    """Return an array's file that announces a shape, and holds less."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": kind, "fortran_order": False, "shape": shape})
    return header.getvalue() + content


def test_more_frames_than_are_taken_are_not_unpacked(sequence, tmp_path, monkeypatch):
    path = tmp_path / "face.npz"
    sequence.save(path)
    assert len(LandmarkSequence.load(path, 7)) == 7
    long = npz(tmp_path / "long.npz", told((200_000, 68, 2), content=bytes(200_000 * 68 * 2 * 4)))
    assert long.stat().st_size < 200_000  # of 109 MB
    unpacked, read = [], zipfile.ZipExtFile.read
    monkeypatch.setattr(zipfile.ZipExtFile, "read", lambda file, n=-1: unpacked.append(read(file, n)) or unpacked[-1])
    for file, frames in ((path, 6), (long, 12_000)):
        with pytest.raises(ValueError, match=rf"frames; at most {frames} are taken"):
            LandmarkSequence.load(file, frames)
    assert 0 < sum(map(len, unpacked)) < 2000


@pytest.mark.parametrize(
    ("landmarks", "packed"),
    [
        (told((3, 68, 2), "<U100000"), zipfile.ZIP_DEFLATED),
        (told((3, 60, 2)), zipfile.ZIP_DEFLATED),
        (told((3, 68, 2), content=bytes(3 * 68 * 2 * 4)), zipfile.ZIP_BZIP2),
        (told((3, 68, 2)), zipfile.ZIP_DEFLATED),
        (b"", zipfile.ZIP_DEFLATED),
    ],
)
def test_what_may_unpack_to_more_is_no_sequence(landmarks, packed, tmp_path):
    with pytest.raises(ValueError, match="is no landmark sequence"):
        LandmarkSequence.load(npz(tmp_path / "x.npz", landmarks, packed), 100)


def test_errors_are_one_sentence(sequence, tmp_path):
    with pytest.raises(ValueError, match=r"\(T, 68, 2\).*got \(3, 67, 2\)"):
        LandmarkSequence(torch.zeros(3, 67, 2), 25, (64, 64))
    with pytest.raises(ValueError, match="1 of 3 frames"):
        bad = torch.zeros(3, 68, 2)
        bad[1, 5, 0] = math.nan
        LandmarkSequence(bad, 25, (64, 64))
    with pytest.raises(ValueError, match="size"):
        LandmarkSequence(torch.zeros(3, 68, 2), 25, (0, 64))
    with pytest.raises(ValueError, match="npz"):
        sequence.save(tmp_path / "face.txt")
    with pytest.raises(ValueError, match="mouth"):
        sequence.gain(mouth=-1)
    with pytest.raises(ValueError, match="fps"):
        LandmarkSequence(torch.zeros(3, 68, 2), 0, (64, 64))
    with pytest.raises(OSError, match="folder does not exist"):
        sequence.save(tmp_path / "absent" / "face.npz")


@pytest.mark.parametrize("size", [(1, 2, 3), 128, (0, 9), ("x", 9)])
def test_a_size_that_is_none_is_refused_by_its_name(size):
    with pytest.raises(ValueError, match=r"^size must be \(height, width\) in px, both positive; got "):
        LandmarkSequence(POINTS[None], 25, size)


@pytest.mark.parametrize("points", [POINTS[:5], POINTS[None]])
def test_one_face_is_one_face(sequence, points):
    with pytest.raises(ValueError, match=r"^face must have shape \(68, 2\)"):
        sequence.retarget(points, (9, 9))
    for change in (sequence.gain, lambda face: sequence.retarget(POINTS, (9, 9), face)):
        with pytest.raises(ValueError, match=r"^reference_landmarks must have shape \(68, 2\)"):
            change(points)


def test_retarget_turns_and_scales_displacements(reference_landmarks, sequence):
    face = turn(reference_landmarks, -20, 2.0, (11, 3))
    moved = retarget(sequence.landmarks, reference_landmarks, face)
    # The other face is the same face turned: its motion must be the same motion turned.
    assert torch.allclose(moved, turn(sequence.landmarks, -20, 2.0, (11, 3)), atol=1e-3)
    other = sequence.retarget(face, (256, 256), reference_landmarks=reference_landmarks)
    assert torch.equal(other.landmarks, moved) and other.size == (256, 256) and other.fps == sequence.fps


def test_retarget_to_itself_changes_nothing(reference_landmarks, sequence):
    assert torch.allclose(
        retarget(sequence.landmarks, reference_landmarks, reference_landmarks), sequence.landmarks, atol=1e-4
    )


def test_gains_of_one_are_exact(reference_landmarks, sequence):
    assert torch.equal(sequence.gain(reference_landmarks).landmarks, sequence.landmarks)
    # Through the arithmetic: a gain of nearly one changes nearly nothing.
    near = sequence.gain(reference_landmarks, mouth=1 + 1e-6).landmarks
    assert torch.allclose(near, sequence.landmarks, atol=1e-3)


def test_pose_gain_halves_a_rotation(reference_landmarks):
    centre = reference_landmarks[[*range(27, 36), 36, 39, 42, 45]].mean(0)
    turned = (turn(reference_landmarks - centre, 20, 1.21, (6, 2)) + centre)[None]
    half = (turn(reference_landmarks - centre, 10, 1.1, (3, 1)) + centre)[None]
    assert torch.allclose(motion_gains(turned, reference_landmarks, pose=0.5), half, atol=1e-3)
    assert torch.allclose(motion_gains(turned, reference_landmarks, pose=0), reference_landmarks[None], atol=1e-3)


def test_mouth_gain_moves_the_mouth_alone(reference_landmarks):
    moved = reference_landmarks[None].repeat(2, 1, 1)
    moved[1, 48:68, 1] += 4
    out = motion_gains(moved, reference_landmarks, mouth=1.5)
    assert torch.allclose(out[1, 48:68, 1], reference_landmarks[48:68, 1] + 6, atol=1e-3)
    assert torch.allclose(out[:, :48], moved[:, :48], atol=1e-3)
    assert torch.allclose(out[0], reference_landmarks, atol=1e-3)


def test_lips_that_a_gain_would_have_cross_touch():
    """Closed from an opening of 1 px to 0.2 px: twice that motion would end 0.6 px beyond."""
    narrow, wide = POINTS.clone(), POINTS.clone()
    for frame, gap in ((narrow, 0.2), (wide, 2.0)):
        frame[[65, 66, 67]] = frame[[63, 62, 61]] + torch.tensor([0.0, gap])
    rest = narrow + 0
    rest[[65, 66, 67], 1] += 0.8
    out = motion_gains(torch.stack([narrow, wide]), rest, mouth=2)
    assert torch.allclose(mouth_opening(out), torch.tensor([0.0, 3.0]), atol=1e-3)
    assert torch.allclose(mouth_opening(motion_gains(out, rest, mouth=0.5)), torch.tensor([0.5, 2.0]), atol=1e-3)


def test_blink_gain_keeps_eyes_open(reference_landmarks):
    moved = reference_landmarks[None].clone()
    lids = [37, 38, 40, 41, 43, 44, 46, 47]
    moved[0, lids, 1] += 3
    assert torch.allclose(motion_gains(moved, reference_landmarks, blink=0), reference_landmarks[None], atol=1e-3)


def test_smoothing_keeps_what_is_smooth(sequence, reference_landmarks):
    shaken = sequence.edit(lambda x: reference_landmarks + torch.randn(50, 68, 2))
    # A parabola through 9 frames passes about half of white noise's amplitude inside, more at the ends.
    assert shaken.smooth(9).landmarks.std(0).mean() < 0.7 * shaken.landmarks.std(0).mean()
    still = sequence.edit(lambda x: reference_landmarks.expand(20, 68, 2))
    assert torch.allclose(still.smooth().landmarks, still.landmarks, atol=1e-3)


def test_edit_and_duration(sequence):
    half = sequence.edit(lambda landmarks: landmarks[::7])
    assert len(half) == 1 and len(sequence) == 7
    assert sequence.duration == pytest.approx(7 * 1001 / 30000)
    assert sequence.smooth().landmarks.shape == sequence.landmarks.shape


def test_plot_writes_a_picture(sequence, tmp_path):
    sequence.plot(tmp_path / "face.png")
    assert (tmp_path / "face.png").read_bytes()[:4] == b"\x89PNG"
    assert [p.name for p in tmp_path.iterdir()] == ["face.png"]
