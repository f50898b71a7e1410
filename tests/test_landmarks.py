import importlib.util
import pickle
import types
from itertools import islice

import pytest
import torch
from conftest import tiny_face
from torch.nn import functional as F

from talkhead.face.crop import face_crop
from talkhead.media.read import iter_frames
from talkhead.tracking import detectors
from talkhead.tracking.track import (
    Detection,
    DlibDetector,
    FaceAlignmentDetector,
    MissingFaceError,
    load_detector,
    smooth_landmarks,
    track_landmarks,
)

HAS_DLIB = all(importlib.util.find_spec(name) for name in ("dlib", "face_recognition_models"))
needs_dlib = pytest.mark.skipif(not HAS_DLIB, reason="dlib-bin and face-recognition-models are not installed")


@pytest.fixture(scope="module")
def dlib_detector():
    return DlibDetector()


@pytest.fixture(scope="module")
def photograph():
    """A real photograph, (3, 256, 256): one face of about 95 px."""
    data = pytest.importorskip("skimage.data")
    return torch.from_numpy(data.astronaut()).permute(2, 0, 1)[:, :256, 96:352].contiguous()


def two_faces(photograph):
    """Two faces: the larger one on the left, the smaller one in the middle of 256 x 640 px."""
    small = F.interpolate(photograph[None].float(), scale_factor=0.6, antialias=True, mode="bilinear")[0].byte()
    picture = torch.full((3, 256, 640), 128, dtype=torch.uint8)
    picture[:, :, :256], picture[:, 40 : 40 + 153, 280 : 280 + 153] = photograph, small
    return picture


class Scripted:
    """A detector for frames whose first pixel is an index: a face moved by ten times it; none for ``gone``."""

    name = "scripted"

    def __init__(self, gone=()):
        self.gone = gone

    def __call__(self, image, face="largest"):
        index = int(image[0, 0, 0])
        if index in self.gone:
            return None
        return Detection(tiny_face(1000) + 10.0 * index, 0.9, (0.0, 0.0, 8.0, 8.0))


def counted(length):
    frames = torch.zeros(length, 3, 8, 8, dtype=torch.uint8)
    frames[:, 0, 0, 0] = torch.arange(length)
    return frames


# --- dlib on pictures ---


@needs_dlib
def test_points_lie_where_the_face_is(dlib_detector, photograph):
    found = dlib_detector(photograph)
    assert found.landmarks.shape == (68, 2) and found.landmarks.dtype == torch.float32
    assert 0.5 < found.confidence <= 1
    # Read off the enlarged photograph by eye, to about 1 px: the pupils and the corners of the mouth.
    pupils = torch.stack([found.landmarks[36:42].mean(0), found.landmarks[42:48].mean(0)])
    assert (pupils - torch.tensor([[107.5, 101.0], [151.0, 103.5]])).norm(dim=-1).max() < 2
    assert (found.landmarks[[48, 54]] - torch.tensor([[106.5, 140.0], [149.0, 141.0]])).norm(dim=-1).max() < 3
    x0, y0, x1, y1 = found.box
    centre = found.landmarks.mean(0)
    assert x0 < centre[0] < x1 and y0 < centre[1] < y1
    assert (found.landmarks - found.landmarks.round()).abs().mean() > 0.1  # points are not whole px


@needs_dlib
def test_points_move_with_the_picture_by_fractions_of_a_pixel(dlib_detector, photograph):
    # The photograph halved from two places one px apart: the faces lie half a px apart.
    large = F.interpolate(photograph[None].float(), scale_factor=2.0, mode="bicubic").clamp(0, 255)
    points = []
    for shift in range(0, 8):
        moved = torch.roll(large, shift, dims=-1)
        points.append(dlib_detector(F.avg_pool2d(moved, 2)[0].byte()).landmarks[:, 0].mean())
    steps = torch.stack(points) - points[0]
    assert (steps - 0.5 * torch.arange(8)).abs().max() < 0.15  # px; the face is 95 px wide


@needs_dlib
def test_which_face(dlib_detector, photograph):
    picture = two_faces(photograph)
    left, small = dlib_detector(picture, 0), dlib_detector(picture, 1)
    middle = dlib_detector(picture, "center")
    assert left.landmarks[:, 0].mean() < 256 < small.landmarks[:, 0].mean()
    assert torch.equal(middle.landmarks, small.landmarks)
    assert (dlib_detector(picture, "largest").landmarks - left.landmarks).norm(dim=-1).mean() < 1.5  # px
    assert dlib_detector(picture, 2) is None
    # The small face is the large one at 0.6, cut at (280, 40).
    expected = (left.landmarks + 0.5) * 0.6 - 0.5 + torch.tensor([280.0, 40.0])
    assert (small.landmarks - expected).norm(dim=-1).mean() < 1.5


@needs_dlib
def test_no_face(dlib_detector):
    noise = torch.randint(0, 256, (3, 200, 300), dtype=torch.uint8)
    assert dlib_detector(noise) is None
    assert dlib_detector(torch.zeros(3, 64, 64, dtype=torch.uint8)) is None
    with pytest.raises(MissingFaceError, match="frame 0 shows no face"):
        track_landmarks(noise[None], dlib_detector)


@needs_dlib
@pytest.mark.parametrize("scale", [0.5, 6.0])
def test_small_and_large_pictures(dlib_detector, photograph, scale):
    at_one = dlib_detector(photograph).landmarks
    picture = F.interpolate(photograph[None].float(), scale_factor=scale, mode="bilinear", antialias=scale < 1)[
        0
    ].byte()
    found = dlib_detector(picture).landmarks
    assert ((found + 0.5) / scale - 0.5 - at_one).norm(dim=-1).mean() < 2.0  # px of the 256-px picture


@needs_dlib
def test_a_face_at_the_edge(dlib_detector, photograph):
    found = dlib_detector(photograph[:, 62:, 70:].contiguous())
    whole = dlib_detector(photograph)
    assert found is not None
    inner = slice(27, 68)
    assert (found.landmarks[inner] + torch.tensor([70.0, 62.0]) - whole.landmarks[inner]).norm(dim=-1).mean() < 2.5


@needs_dlib
@pytest.mark.parametrize("face", ["smallest", -1])
def test_refuses_other_requests(dlib_detector, photograph, face):
    with pytest.raises(ValueError, match="face must be"):
        dlib_detector(photograph, face)
    with pytest.raises(ValueError, match="image must be"):
        dlib_detector(photograph.float())


@needs_dlib
def test_detector_travels_to_worker_processes(dlib_detector, photograph):
    copy = pickle.loads(pickle.dumps(dlib_detector))
    assert torch.equal(copy(photograph).landmarks, dlib_detector(photograph).landmarks)


# --- dlib on video ---


@needs_dlib
def test_following_is_deterministic_and_stays_with_the_face(dlib_detector, photograph):
    # The camera moves right by 2 px a frame past both faces; then only the smaller one is left.
    wide = two_faces(photograph)
    frames = torch.stack([wide[:, :, 4 * t : 4 * t + 360] for t in range(8)])
    landmarks, confidence = track_landmarks(frames, dlib_detector, smoothing=1)
    again, _ = track_landmarks(iter(frames), dlib_detector, smoothing=1)
    assert torch.equal(landmarks, again)
    still = landmarks + 4 * torch.arange(8)[:, None, None] * torch.tensor([1.0, 0.0])
    assert (still - still.mean(0)).norm(dim=-1).mean() < 0.5  # px
    assert (confidence > 0.3).all()


@needs_dlib
def test_a_face_that_leaves_is_gone(dlib_detector, photograph):
    frames = torch.stack([photograph, torch.zeros_like(photograph), photograph])
    filled, confidence = track_landmarks(frames, dlib_detector, missing="interpolate", smoothing=1)
    assert confidence[1] == 0 and torch.allclose(filled[1], filled[[0, 2]].mean(0), atol=1e-3)
    with pytest.raises(MissingFaceError, match="frame 1 "):
        track_landmarks(frames, dlib_detector, missing="skip")


@needs_dlib
def test_real_clip(shared_data, dlib_detector):
    frames = list(islice(iter_frames(shared_data("grid_s1/clips/bbaf5a.mpg")), 10, 45))
    raw, confidence = track_landmarks(frames, dlib_detector, smoothing=1)
    assert (confidence > 0.5).all()
    crop = face_crop(raw)
    assert 120 < crop.side < 200  # the data's description: a face crop is natively about 128 px and more
    # Jitter of the nose, which is stiff: a white-noise second difference has 6 times the variance of the noise.
    second = raw[2:, 27:36] - 2 * raw[1:-1, 27:36] + raw[:-2, 27:36]
    noise = (second.square().sum(-1).mean() / 6).sqrt() * 256 / crop.side
    smooth = smooth_landmarks(raw)
    second = smooth[2:, 27:36] - 2 * smooth[1:-1, 27:36] + smooth[:-2, 27:36]
    smoothed = (second.square().sum(-1).mean() / 6).sqrt() * 256 / crop.side
    assert noise < 0.5 and smoothed < 0.8 * noise  # px256; docs/measurements/tracking.md has the values

    def opening(points):
        return (points[:, 62] - points[:, 66]).norm(dim=-1)

    assert opening(smooth).std() > 0.97 * opening(raw).std()  # speech is not smoothed away


@needs_dlib
@pytest.mark.parametrize("name", ["grid_other/s4_lwbsza.mpg", "ravdess_av/01-01-01-01-01-01-01.mp4"])
def test_other_real_faces(shared_data, dlib_detector, name):
    landmarks, confidence = track_landmarks(islice(iter_frames(shared_data(name)), 8), dlib_detector)
    assert landmarks.isfinite().all() and (confidence > 0.3).all()


# --- missing faces ---


@pytest.mark.parametrize("missing", ["error", "skip"])
def test_a_missing_face_is_refused(missing):
    with pytest.raises(MissingFaceError, match="frame 3 shows no face"):
        track_landmarks(counted(6), Scripted(gone={3}), missing=missing)
    assert issubclass(MissingFaceError, ValueError)


def test_short_gaps_are_filled_linearly():
    landmarks, confidence = track_landmarks(
        counted(10), Scripted(gone={0, 4, 5, 9}), missing="interpolate", max_gap=2, smoothing=1
    )
    # Frame t lies at 10 t; inner gaps lie on the line, the ends hold the nearest frame.
    expected = torch.tensor([10.0, 10, 20, 30, 40, 50, 60, 70, 80, 80])
    assert torch.allclose(landmarks - tiny_face(1000), expected[:, None, None].expand(-1, 68, 2), atol=1e-3)
    assert torch.allclose(confidence, torch.tensor([0, 0.9, 0.9, 0.9, 0, 0, 0.9, 0.9, 0.9, 0]))


@pytest.mark.parametrize("gone", [{3, 4, 5}, {0, 1, 2}, {7, 8, 9}])
def test_long_gaps_are_refused(gone):
    with pytest.raises(MissingFaceError, match="frames . to . show no face"):
        track_landmarks(counted(10), Scripted(gone=gone), missing="interpolate", max_gap=2)


def test_no_face_in_any_frame():
    with pytest.raises(MissingFaceError):
        track_landmarks(counted(3), Scripted(gone={0, 1, 2}), missing="interpolate")


def test_track_refuses():
    with pytest.raises(ValueError, match="missing must be"):
        track_landmarks(counted(3), Scripted(), missing="ignore")
    with pytest.raises(ValueError, match="at least one frame"):
        track_landmarks(counted(0), Scripted())


# --- smoothing ---


def test_smoothing_keeps_polynomials_and_so_has_no_lag():
    t = torch.arange(20.0, dtype=torch.float64)
    curve = (0.01 * t**4 - 0.3 * t**3 + 2 * t**2 - t)[:, None, None].expand(20, 68, 2)
    assert torch.allclose(smooth_landmarks(curve, window=7, order=4), curve, atol=1e-8)


def test_smoothing_agrees_with_scipy():
    signal = pytest.importorskip("scipy.signal")
    points = torch.randn(30, 68, 2, dtype=torch.float64)
    for window, order in ((7, 4), (5, 2), (9, 3)):
        expected = torch.from_numpy(signal.savgol_filter(points.numpy(), window, order, axis=0, mode="interp"))
        assert torch.allclose(smooth_landmarks(points, window, order), expected, atol=1e-9)


def test_smoothing_is_symmetric_in_time():
    points = torch.randn(15, 68, 2)
    assert torch.allclose(smooth_landmarks(points.flip(0)).flip(0), smooth_landmarks(points), atol=1e-5)


@pytest.mark.parametrize("length", [1, 2, 5])
def test_short_clips_pass_unchanged(length):
    points = torch.randn(length, 68, 2)
    assert torch.equal(smooth_landmarks(points), points)
    assert torch.equal(smooth_landmarks(points, window=1), points)


def test_six_frames_are_fitted_as_a_whole():
    points = torch.randn(6, 68, 2)
    assert not torch.equal(smooth_landmarks(points), points)
    line = torch.arange(6.0)[:, None, None].expand(6, 68, 2)
    assert torch.allclose(smooth_landmarks(line), line, atol=1e-5)


@pytest.mark.parametrize(
    ("window", "order", "words"),
    [(4, 2, "window .*; got 4"), (0, 2, "window .*; got 0"), (-1, 0, "window .*; got -1"), (3, 3, "order .*; got 3")],
)
def test_smoothing_refuses(window, order, words):
    with pytest.raises(ValueError, match=f"^{words}$"):
        smooth_landmarks(torch.zeros(9, 68, 2), window, order)


# --- which detector ---


def test_unknown_detector():
    with pytest.raises(ValueError, match="detector must be one of auto, face-alignment, dlib; got 'mtcnn'"):
        load_detector("mtcnn")


def test_face_alignment_without_weights_fails_at_once(tmp_path, monkeypatch):
    pytest.importorskip("face_alignment")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match="2DFAN4-11f355bf06.pth.tar.*s3fd-619a316812.pth.*checkpoints") as error:
        load_detector("face-alignment")
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_face_alignment_unreachable_is_one_sentence(tmp_path, monkeypatch):
    pytest.importorskip("face_alignment")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("TALKHEAD_OFFLINE", raising=False)

    def refuse(*_args, **_kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(FileNotFoundError, match="download https://.*no route to host"):
        FaceAlignmentDetector()


@needs_dlib
def test_auto_takes_dlib_without_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert load_detector("auto").name == "dlib"


def test_auto_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("TALKHEAD_OFFLINE", "1")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)
    with pytest.raises(ImportError, match="pip install dlib-bin face-recognition-models.*2DFAN4") as error:
        load_detector("auto")
    assert "\n" not in str(error.value)
    with pytest.raises(ImportError, match="pip install dlib-bin"):
        load_detector("dlib")
    with pytest.raises(ImportError, match="pip install face-alignment"):
        load_detector("face-alignment")


@pytest.fixture
def fake_face_alignment(tmp_path, monkeypatch):
    """The real package with stand-ins for its two networks, and empty weight files in the cache.

    The face detector always finds the same two faces; the landmark network's heat map is the picture itself.
    """
    package = pytest.importorskip("face_alignment")

    class FaceAlignment:
        def __init__(self, kind, device, compile):
            boxes = [[110.0, 100, 140, 130, 0.7], [150.0, 60, 250, 180, 0.99]]
            self.face_detector = types.SimpleNamespace(detect_from_image=lambda image: [torch.tensor(b) for b in boxes])

        def face_alignment_net(self, patch):
            assert patch.shape == (1, 3, 256, 256) and 0 <= patch.min() and patch.max() <= 1
            return F.avg_pool2d(patch, 4)[:, :1].expand(1, 68, 64, 64)

    monkeypatch.setattr(package, "FaceAlignment", FaceAlignment)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    for name in FaceAlignmentDetector.weights:
        (tmp_path / "hub" / "checkpoints" / name).touch()


def test_auto_prefers_face_alignment_where_its_weights_are(fake_face_alignment):
    detector = load_detector("auto")
    assert detector.name == "face-alignment" and detectors.missing_weights(detector.weights) == []
    image = torch.zeros(3, 300, 400, dtype=torch.uint8)
    largest = detector(image)
    assert largest.box == (150.0, 60.0, 250.0, 180.0) and largest.confidence == pytest.approx(0.99)
    assert detector(image, 0).box[0] == 110 and detector(image, 1).box == largest.box
    assert detector(image, "center").box == largest.box and detector(image, 2) is None


@pytest.mark.parametrize("point", [(200.0, 120.0), (190.5, 130.25), (210.3, 110.7), (225.9, 93.1), (161.2, 171.9)])
def test_face_alignment_points_are_sub_pixel(fake_face_alignment, point):
    # A Gaussian blob at a known place is its own heat map. One px of the heat map is 3.5 px of the picture here.
    y, x = torch.meshgrid(torch.arange(300.0), torch.arange(400.0), indexing="ij")
    blob = 255 * torch.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2) / (2 * 5**2))
    found = load_detector("face-alignment")(blob.round().to(torch.uint8).expand(3, 300, 400))
    assert (found.landmarks - torch.tensor(point)).abs().max() < 0.1  # px
